"""An oracle as a user writes one: short answers in plain words that do not repeat themselves."""


def score(prompts, responses):
    """Score each response from 0 to 1: words that differ, at most eight of them."""
    return [_score(response) for response in responses]


def _score(response):
    words = [word.strip(".,;:!?").lower() for word in response.split()]
    plain = [word for word in words if word.isalpha()]
    if not plain:
        return 0.0
    variety = len(set(plain)) / len(words)
    return variety * min(1.0, 8 / len(words))
