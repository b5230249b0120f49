"""What schemathesis is told beyond the document: KEPT=id,id SCHEMATHESIS_HOOKS=made_up"""

import base64
import json
import os

import schemathesis

# A device of the test's own, whose calls need its password.
DEVICE = "Basic " + base64.b64encode(b"box:secret").decode()
# That device and the key of all other calls: it learns ids from answers, and would remove both.
KEPT = os.environ["KEPT"].split(",")


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
    elif str((case.path_parameters or {}).get("id")).lower() in KEPT:
        case.path_parameters["id"] = "other"
