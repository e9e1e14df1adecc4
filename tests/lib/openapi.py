# SPDX-License-Identifier: Apache-2.0
"""docs/openapi.yaml, and a validator for the part of JSON Schema (2020-12) that it uses. A keyword it does not know is an
error of the document, so that nothing is believed checked that is not."""

import datetime
import os
import re

import yaml

import weirtest

KNOWN = {"$ref", "type", "properties", "required", "additionalProperties", "enum", "const", "items", "oneOf", "minimum", "maximum",
         "exclusiveMinimum", "minItems", "maxItems", "minLength", "maxLength", "pattern", "format", "description", "default", "title"}


def is_type(value, name):
    if name == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if name == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}[name])


class Document:
    def __init__(self, path=os.path.join(weirtest.ROOT, "docs", "openapi.yaml")):
        with open(path, encoding="utf-8") as f:
            self.tree = yaml.safe_load(f)

    def resolve(self, node):
        while isinstance(node, dict) and "$ref" in node:
            target = self.tree
            for part in node["$ref"][2:].split("/"):
                target = target[part]
            node = target
        return node

    def operations(self):
        """(method, path, operation) of each."""
        for path, item in self.tree["paths"].items():
            for method, operation in item.items():
                if method in ("get", "put", "post", "delete"):
                    yield method.upper(), path, operation

    def parameters(self, path, operation):
        both = self.tree["paths"][path].get("parameters", []) + operation.get("parameters", [])
        return [self.resolve(p) for p in both]

    def response(self, operation, status):
        found = operation["responses"].get(str(status), operation["responses"].get("default"))
        return self.resolve(found)

    def schema(self, name):
        return self.tree["components"]["schemas"][name]

    def errors(self, value, schema, where="$"):
        """Every way in which `value` is not as `schema` says."""
        schema = self.resolve(schema)
        unknown = set(schema) - KNOWN
        if unknown:
            raise AssertionError(f"openapi.yaml uses {unknown}, which this validator does not know")
        out = []
        types = schema.get("type")
        if types is not None:
            types = [types] if isinstance(types, str) else types
            if not any(is_type(value, t) for t in types):
                return [f"{where}: {value!r} is no {' or '.join(types)}"]
        if "enum" in schema and value not in schema["enum"]:
            out.append(f"{where}: {value!r} is none of {schema['enum']}")
        if "const" in schema and value != schema["const"]:
            out.append(f"{where}: {value!r} is not {schema['const']!r}")
        if "oneOf" in schema:
            results = [self.errors(value, s, where) for s in schema["oneOf"]]
            if sum(not r for r in results) != 1:
                out.append(f"{where}: fits {sum(not r for r in results)} of oneOf: {results}")
        out += self._of_object(value, schema, where) if isinstance(value, dict) else []
        out += self._of_array(value, schema, where) if isinstance(value, list) else []
        out += self._of_text(value, schema, where) if isinstance(value, str) else []
        out += self._of_number(value, schema, where) if is_type(value, "number") else []
        return out

    def _of_object(self, value, schema, where):
        properties = schema.get("properties", {})
        out = [f"{where}.{k}: missing" for k in schema.get("required", []) if k not in value]
        for k, v in value.items():
            if k in properties:
                out += self.errors(v, properties[k], f"{where}.{k}")
            elif schema.get("additionalProperties") is False:
                out.append(f"{where}.{k}: not in the document")
        return out

    def _of_array(self, value, schema, where):
        out = []
        if len(value) < schema.get("minItems", 0) or len(value) > schema.get("maxItems", len(value)):
            out.append(f"{where}: {len(value)} items")
        for i, v in enumerate(value):
            out += self.errors(v, schema.get("items", {}), f"{where}[{i}]")
        return out

    def _of_text(self, value, schema, where):
        out = []
        if "pattern" in schema and not re.search(schema["pattern"], value):
            out.append(f"{where}: {value!r} does not match {schema['pattern']}")
        if len(value) > schema.get("maxLength", len(value)) or len(value) < schema.get("minLength", 0):
            out.append(f"{where}: {len(value)} characters")
        if schema.get("format") == "date-time":
            try:
                if datetime.datetime.fromisoformat(value.replace("Z", "+00:00")).tzinfo is None:
                    out.append(f"{where}: {value!r} has no zone")
            except ValueError:
                out.append(f"{where}: {value!r} is no date-time")
        return out

    def _of_number(self, value, schema, where):
        if value < schema.get("minimum", value) or value > schema.get("maximum", value):
            return [f"{where}: {value} is out of bounds"]
        if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
            return [f"{where}: {value} is out of bounds"]
        return []
