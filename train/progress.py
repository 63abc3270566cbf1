"""A bar on the terminal that says how far a program is; nothing where standard error is no terminal, such as in a log."""

from tqdm import tqdm


class Progress:
    """``name``, and ``total`` of a unit that need not be whole: minutes of training, hours of speech."""

    def __init__(self, name, total, unit, begin=0.0):
        self.bar = tqdm(total=round(total, 2), initial=round(begin, 2), desc=name, disable=None, dynamic_ncols=True,
                        bar_format="{desc} {percentage:3.0f} %|{bar}| {n:.2f} of {total:.2f} " + unit + " {postfix}")

    def at(self, done, **shown):
        """Moves the bar, and shows numbers behind it."""
        self.bar.n = min(done, self.bar.total)
        self.bar.set_postfix({name: f"{value:.3g}" for name, value in shown.items()}, refresh=False)
        self.bar.refresh()
