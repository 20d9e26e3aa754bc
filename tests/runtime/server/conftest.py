import pytest
from fastapi.testclient import TestClient
from stretto.policies.deadline import Deadline
from stretto.runtime.bundle import Bundle
from stretto.runtime.engines import make_engine
from stretto.runtime.server.app import make_app
from stretto.runtime.session import Session

from ..fakes import set_profile
from ..toy import toy_bundle

STAGE_MS = 1e6  # of full width, in the profile that the session plans with; real stages take microseconds


@pytest.fixture(scope="package")
def toy(tmp_path_factory):
    return toy_bundle(tmp_path_factory.mktemp("server") / "toy.stretto")


@pytest.fixture(scope="package")
def session(toy):
    bundle = Bundle.open(toy.path)
    with Session(bundle, make_engine("onnx", bundle), Deadline(), set_profile(bundle, STAGE_MS)) as session:
        yield session


@pytest.fixture(scope="package")
def client(session):
    with TestClient(make_app({"toy": session}), raise_server_exceptions=False) as client:
        yield client
