"""The programs as their parsers tell them: what man pages and completions are made of."""

import argparse
import importlib.metadata
from collections.abc import Iterator
from importlib import import_module
from typing import NamedTuple

from mqi_scripts import words as w
from mqi_scripts.frame import cli

LISTS = {"WORDS": w.STATUSES}  # what can stand, parted by commas, where that metavar is

# One option or positional. takes: its metavar, "" for a switch. words: what it can be, if that is known. many: parted by commas.
Item = NamedTuple("Item", [("flags", tuple[str, ...]), ("takes", str), ("words", tuple[str, ...]), ("many", bool), ("help", str)])
# A program, or one of its commands (command "": the program itself).
Command = NamedTuple("Command", [("command", str), ("about", str), ("items", tuple[Item, ...])])
Program = NamedTuple("Program", [("name", str), ("parse", argparse.ArgumentParser), ("commands", tuple[Command, ...])])


def programs() -> list[Program]:
    """All that are installed, by their entry points."""
    names = {entry.name: entry.value for entry in importlib.metadata.distribution("mqi").entry_points}
    return [_program(name, names[name].partition(":")[0]) for name in sorted(names)]


def _program(name: str, module: str) -> Program:
    verb = import_module(module)
    parse = verb.parser() if hasattr(verb, "parser") else cli.parser(name, verb.__doc__ or "", line=True)
    below = [action for action in parse._actions if isinstance(action, argparse._SubParsersAction)]
    commands = [Command("", parse.description or "", tuple(_items(parse)))]
    for action in below:
        about = {choice.dest: choice.help or "" for choice in action._choices_actions}
        commands += [Command(word, about.get(word, ""), tuple(_items(inner))) for word, inner in action.choices.items()]
    return Program(name, parse, tuple(commands))


def _items(parse: argparse.ArgumentParser) -> Iterator[Item]:
    for action in parse._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction):
            continue
        takes = "" if action.nargs == 0 else str(action.metavar or (action.option_strings and action.dest.upper()) or action.dest)
        words = tuple(map(str, action.choices)) if action.choices else LISTS.get(takes, ())
        said = (action.help or "") % {**vars(action), "prog": parse.prog}
        yield Item(tuple(action.option_strings), takes, words, takes in LISTS, said)
