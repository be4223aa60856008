"""Functions that a model may call: OpenAI's ``tools`` and ``tool_choice`` to native declarations and their config.

Owns the modes of calling. It must not know messages: calls that were made are theirs.
"""

from __future__ import annotations

import re
from typing import Any, Final

from carpool.surfaces.openai.values import (
    filled,
    flag,
    known,
    listed,
    one_of,
    own_data,
    refused,
    shaped,
    text_of,
)

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")
_MODES: Final = {"none": "NONE", "auto": "AUTO", "required": "ANY", "validated": "VALIDATED"}
_OTHER_TOOLS: Final = "functions are all that has a native form; Google's own tools want its generateContent"


def place_tools(fields: dict[str, Any], native: dict[str, Any]) -> None:
    """Put what a request says of tools into its native form.

    Functions that are declared ``strict`` are called in the mode VALIDATED, in which their schemas hold.

    Args:
        fields: of the request: ``tools``, ``tool_choice`` and ``parallel_tool_calls`` are read.
        native: gets ``tools`` and ``toolConfig``.

    Raises:
        Untranslatable: something in them has no native form.
    """
    names, strict = _declare(fields.get("tools"), native)
    config = _calling(fields.get("tool_choice"), names, strict=strict)
    if config:
        native["toolConfig"] = {"functionCallingConfig": config}
    parallel = fields.get("parallel_tool_calls")
    if parallel is not None and not flag(parallel, "parallel_tool_calls"):
        usable = config.get("allowedFunctionNames", names)
        if len(usable) > 1 and config.get("mode") != "NONE":
            why = "Gemini may always call several functions at once, and cannot be told not to"
            raise refused("parallel_tool_calls", f"{why}; leave it out, or offer one function")


def _declare(value: Any, native: dict[str, Any]) -> tuple[list[str], bool]:
    """Put the declarations into a native request; return their names, and whether any is strict."""
    if value is None:
        return [], False
    declarations: list[dict[str, Any]] = []
    names: list[str] = []
    strict = False
    for index, item in enumerate(listed(value, "tools")):
        path = f"tools[{index}]"
        tool = shaped(item, path)
        one_of(tool.get("type"), f"{path}.type", ("function",), hint=f": {_OTHER_TOOLS}")
        known(tool, ("type", "function"), path)
        path = f"{path}.function"
        function = shaped(tool.get("function"), path)
        known(function, ("name", "description", "parameters", "strict"), path)
        name = _name(function.get("name"), f"{path}.name")
        if name in names:
            raise refused(f"{path}.name", "another function has this name")
        names.append(name)
        declaration: dict[str, Any] = {"name": name}
        if function.get("description") is not None:
            declaration["description"] = text_of(function["description"], f"{path}.description")
        if function.get("parameters") is not None:
            declaration["parametersJsonSchema"] = own_data(function["parameters"], f"{path}.parameters")
        if function.get("strict") is not None:
            strict = flag(function["strict"], f"{path}.strict") or strict
        declarations.append(declaration)
    if declarations:
        native["tools"] = [{"functionDeclarations": declarations}]
    return names, strict


def _calling(choice: Any, names: list[str], *, strict: bool) -> dict[str, Any]:
    """Return the native config of calling; empty where it says no more than what holds anyway."""
    param = "tool_choice"
    if choice is None:
        return {"mode": "VALIDATED"} if strict else {}
    if isinstance(choice, dict):
        return _chosen(shaped(choice, param), names)
    word = one_of(choice, param, _MODES)
    if not names:
        if word in ("none", "auto"):
            return {}
        raise refused(param, "there are no tools to choose from: give tools, or leave it out")
    return {"mode": "VALIDATED" if strict and word == "auto" else _MODES[word]}


def _chosen(choice: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Return the native config for a choice that names functions."""
    param = "tool_choice"
    kind = one_of(choice.get("type"), f"{param}.type", ("function", "allowed_tools"), hint=f": {_OTHER_TOOLS}")
    if kind == "function":
        known(choice, ("type", "function"), param)
        return {"mode": "ANY", "allowedFunctionNames": [_declared(choice.get("function"), names, f"{param}.function")]}
    known(choice, ("type", "allowed_tools"), param)
    path = f"{param}.allowed_tools"
    allowed = shaped(choice.get("allowed_tools"), path)
    known(allowed, ("mode", "tools"), path)
    word = one_of(allowed.get("mode"), f"{path}.mode", ("auto", "required"))
    usable: list[str] = []
    for index, item in enumerate(listed(allowed.get("tools"), f"{path}.tools")):
        place = f"{path}.tools[{index}]"
        tool = shaped(item, place)
        one_of(tool.get("type"), f"{place}.type", ("function",), hint=f": {_OTHER_TOOLS}")
        known(tool, ("type", "function"), place)
        usable.append(_declared(tool.get("function"), names, f"{place}.function"))
    if not usable:
        raise refused(f"{path}.tools", "it is empty; to have none called, give tool_choice 'none'")
    # Names may be given in these two modes alone; this one calls functions or answers in words, as AUTO does.
    return {"mode": "ANY" if word == "required" else "VALIDATED", "allowedFunctionNames": usable}


def _declared(value: Any, names: list[str], param: str) -> str:
    function = shaped(value, param)
    known(function, ("name",), param)
    name = filled(function.get("name"), f"{param}.name")
    if name not in names:
        raise refused(f"{param}.name", "no function of this name is in tools")
    return name


def _name(value: Any, param: str) -> str:
    name = filled(value, param)
    if not _NAME.fullmatch(name):
        why = "it must begin with a letter or an underscore, and hold letters, digits, and _ . : - alone, 128 at most"
        raise refused(param, why)
    return name
