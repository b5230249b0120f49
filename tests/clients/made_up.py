"""What schemathesis is told beyond the document: SCHEMATHESIS_HOOKS=made_up"""

import base64
import json

import schemathesis

# A device of the test's own, whose calls need its password.
DEVICE = "Basic " + base64.b64encode(b"box:secret").decode()


@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    """Each item of a list is a line, and anything else is the only one."""
    values = value if isinstance(value, list) else [value]
    return "".join(json.dumps(one) + "\n" for one in values).encode()


@schemathesis.hook
def before_call(context, case, kwargs):
    if any("device" in way for way in case.operation.definition.raw.get("security", [])):
        case.headers["Authorization"] = DEVICE
        case.path_parameters["id"] = "box"
    elif (case.path_parameters or {}).get("id") == "box":
        # Nobody else touches it.
        case.path_parameters["id"] = "other"
