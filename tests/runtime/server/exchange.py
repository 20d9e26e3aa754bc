"""What tests of the server send, and what they look at in a reply."""

from threading import Event

import numpy as np
from stretto.policies.situation import Evidence, OperatingPoint, Stop
from stretto.runtime.answer import Answer
from stretto.runtime.server.protocol import INPUT

INFER = "/v2/models/toy/infer"


class Scripted:
    """Stands in for a session: notes deadlines, and answers once it is let go."""

    def __init__(self, session, error=None):
        self.bundle, self.stats, self.deadlines = session.bundle, session.stats, []
        self.entered, self.let_go, self._error = Event(), Event(), error

    def infer(self, x, deadline):
        self.deadlines.append(deadline)
        self.entered.set()
        assert self.let_go.wait(10)
        if self._error:
            raise self._error
        point = OperatingPoint(1.0, 1)
        seen = Evidence(point, np.ones(4), 1.0, 0, 0.25, 0.9)
        return [Answer(seen, "a", 0, 1.0, point, 0.1, True, Stop.FINAL, 1.0, 0.9, (1,), 2.0)] * len(x)


def asked(x, datatype="FP32", parameters=None, **rest):
    tensor = {"name": INPUT, "shape": list(x.shape), "datatype": datatype, "data": x.ravel().tolist()}
    return {"inputs": [tensor], **rest} | ({} if parameters is None else {"parameters": parameters})


def answered(client, body):
    reply = client.post(INFER, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def output(reply, name):
    found = next(tensor for tensor in reply["outputs"] if tensor["name"] == name)
    return np.array(found["data"]).reshape(found["shape"])


def error(reply, status):
    assert reply.status_code == status, reply.text
    assert list(reply.json()) == ["error"]
    return reply.json()["error"]


def count(registry, name, **labels):
    return registry.get_sample_value(name, labels) or 0.0
