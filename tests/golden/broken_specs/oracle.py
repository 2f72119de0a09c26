"""Plug-ins for the broken specs: one that fits, one with too few arguments."""


def score(prompts, responses):
    return [0.0 for _ in responses]


def judge(prompts):
    return [0.0 for _ in prompts]
