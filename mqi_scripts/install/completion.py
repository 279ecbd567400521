"""Completions for bash, zsh and fish, made of the programs' parsers: options, commands, files, statuses, case ids and hosts."""

import re
from collections.abc import Sequence

from mqi_scripts.install.programs import Command, Item, Program, programs
from mqi_scripts.install.things import MARK, File

# what is asked from the site, by the option's metavar; who may not read it is offered none
CASES = "mqi-report --jsonl 2>/dev/null | sed -n 's/.*\"case_id\": \"\\([0-9a-f]*\\)\".*/\\1/p'"
HOSTS = "sed -n 's/^\\[hosts\\.\\([A-Za-z0-9_-]*\\)\\].*/\\1/p' \"${MQI_CONFIG:-/etc/mqi/mqi.toml}\" 2>/dev/null"
ASKED = {"CASE": CASES, "HOST": HOSTS}
FILES = ("FILE", "DIR")


def files(share: str) -> list[File]:
    """Every completion, for the folder `share`."""
    made = []
    for one in programs():
        made += [File(f"{share}/bash-completion/completions/{one.name}", bash(one)),
                 File(f"{share}/zsh/site-functions/_{one.name}", zsh(one)),
                 File(f"{share}/fish/vendor_completions.d/{one.name}.fish", fish(one))]  # fmt: skip
    return made


def bash(program: Program) -> str:
    name = "_" + program.name.replace("-", "_")
    top, inner = program.commands[0], program.commands[1:]
    lines = [f"# {MARK}", f"{name}() {{", "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} word"]
    lines += ["  COMPREPLY=()", "  case $prev in"]
    taking = {one.flags: one for command in program.commands for one in command.items if one.flags and one.takes}
    for flags, item in taking.items():
        lines += [f"  {'|'.join(flags)}) {_bash_value(item)}; return ;;"]
    lines += ["  esac"]
    lines += ['  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do', "    case $word in"] if inner else []
    for one in inner:
        lines += [f"    {one.command}) {_bash_words(one)}; return ;;"]
    lines += ["    esac", "  done"] if inner else []
    lines += [f"  {_bash_words(top, [one.command for one in inner])}", "}", f"complete -F {name} {program.name}"]
    return "\n".join(lines) + "\n"


def _bash_value(item: Item) -> str:
    if item.many:
        return ('local done=""; [[ $cur == *,* ]] && done=${cur%,*},; '
                f'COMPREPLY=($(compgen -P "$done" -W "{" ".join(item.words)}" -- "${{cur##*,}}"))')  # fmt: skip
    if item.takes in FILES:
        return f'COMPREPLY=($(compgen -{"d" if item.takes == "DIR" else "f"} -- "$cur"))'
    return f'COMPREPLY=($(compgen -W "{_asked(item)}" -- "$cur"))'


def _bash_words(command: Command, more: Sequence[str] = ()) -> str:
    flags = [flag for item in command.items for flag in item.flags]
    free = [_asked(item) for item in command.items if not item.flags]
    return f'COMPREPLY=($(compgen -W "{" ".join([*more, *flags, *free]).strip()}" -- "$cur"))'


def _asked(item: Item) -> str:
    """The words that it can be, as shell has them inside double quotes."""
    return " ".join(item.words) or (f"$({ASKED[item.takes]})" if item.takes in ASKED else "")


def zsh(program: Program) -> str:
    top, inner = program.commands[0], program.commands[1:]
    lines = [f"#compdef {program.name}", f"# {MARK}"]
    if not inner:
        return "\n".join([*lines, *_zsh_arguments(top, "")]) + "\n"
    lines += ["local state", *_zsh_arguments(top, "-C", ["'1:command:->command'", "'*::argument:->rest'"]), "case $state in"]
    told = " ".join(f"{one.command}:{_zsh_text(one.about)}" for one in inner)
    about = " ".join(_single(f"{one.command}:{one.about}") for one in inner)
    lines += [f"command) local -a all=({about}); _describe command all ;;", "rest) case $words[1] in"] if told else []
    for one in inner:
        lines += [f"  {one.command})", *_zsh_arguments(one, ""), "  ;;"]
    return "\n".join([*lines, "  esac ;;", "esac"]) + "\n"


def _zsh_arguments(command: Command, how: str, more: Sequence[str] = ()) -> list[str]:
    specs = []
    for item in command.items:
        what = f":{item.takes.lower()}:{_zsh_value(item)}" if item.takes else ""
        told = f"[{_zsh_text(item.help)}]"
        specs += [_single(f"*{flag}{told}{what}") for flag in item.flags] or [_single(f"*{what}")]
    return [" \\\n  ".join([f"_arguments -s {how}".rstrip(), *specs, *more])]


def _zsh_value(item: Item) -> str:
    if item.many:
        return f"_values -s , word {' '.join(item.words)}"
    if item.takes in FILES:
        return "_files -/" if item.takes == "DIR" else "_files"
    if item.words:
        return f"({' '.join(item.words)})"
    asked = ASKED.get(item.takes, "")
    return f"{{compadd -- ${{(f)\"$({asked})\"}}}}" if asked else " "


def _zsh_text(text: str) -> str:
    return re.sub(r"([\[\]:\\])", r"\\\1", text)


def fish(program: Program) -> str:
    lines = [f"# {MARK}", f"complete -c {program.name} -f"]
    inner = [one.command for one in program.commands[1:]]
    for one in program.commands:
        when = f"__fish_seen_subcommand_from {one.command}" if one.command else "__fish_use_subcommand" if inner else ""
        if one.command:
            lines += [f"complete -c {program.name} -n __fish_use_subcommand -a {one.command} -d {_single(one.about)}"]
        for item in one.items:
            lines += [_fish_item(program.name, item, when)]
    return "\n".join(lines) + "\n"


def _fish_item(name: str, item: Item, when: str) -> str:
    parts = [f"complete -c {name}", *([f"-n {_single(when)}"] if when else [])]
    parts += [f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in item.flags]
    asked = f"(sh -c {_single(ASKED[item.takes])})" if item.takes in ASKED else ""
    words = f"(__fish_append , {' '.join(item.words)})" if item.many else " ".join(item.words) or asked
    if item.takes:
        parts += ["-r" if item.flags else "", "-F" if item.takes in FILES else "", f"-a {_fish(words)}" if words else ""]
    return " ".join(part for part in (*parts, f"-d {_fish(item.help)}" if item.flags else "") if part)


def _single(text: str) -> str:
    """One word for sh, bash and zsh."""
    return "'" + text.replace("'", "'\\''") + "'"


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
