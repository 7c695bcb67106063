"""Who may: every place where Kaggle's client looks for credentials, and nothing but one line where there are none."""

import json

import pytest

from unbroken.errors import RemoteRefused
from unbroken.testing.kaggle.messages import as_json


@pytest.fixture
def signed_out(service, monkeypatch):
    """The service, with no credentials anywhere."""
    for name, value in service.environment(signed_in=False).items():
        monkeypatch.setenv(name, value)
    return service


def written(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def key_file(service, key=None):
    return json.dumps({"username": service.user, "key": key or service.key})


def test_none_is_one_line_with_the_ways_out(signed_out, remote, tmp_path):
    for action in (remote.items, lambda: remote.fetch("a", tmp_path / "a"), lambda: remote.put({"a": tmp_path / "a"})):
        with pytest.raises(RemoteRefused, match="there are no credentials for Kaggle") as refusal:
            action()
        text = str(refusal.value)
        assert "\n" not in text
        assert all(way in text for way in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME and KAGGLE_KEY", "kaggle.json"))
    assert not signed_out.requests


@pytest.mark.parametrize("folder", [".kaggle", "kaggle"])
def test_a_key_file_in_the_home_or_the_configuration_folder(signed_out, remote, folder):
    written(signed_out.home / folder / "kaggle.json", key_file(signed_out))
    assert remote.items() == []


def test_a_key_file_in_a_named_folder(signed_out, remote, tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    written(tmp_path / "kaggle.json", key_file(signed_out))
    assert remote.items() == []


@pytest.mark.parametrize("text", ["", "no json", "[]", "{}", '{"username": "ada"}'])
def test_a_key_file_without_a_key(signed_out, remote, text):
    written(signed_out.home / ".kaggle" / "kaggle.json", text)
    with pytest.raises(RemoteRefused, match=r"credentials.*: set KAGGLE_API_TOKEN, or"):
        remote.items()


def test_variables_go_before_the_key_file(service, remote):
    written(service.home / ".kaggle" / "kaggle.json", key_file(service, "another"))
    assert remote.items() == []


def test_a_token(signed_out, remote, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", signed_out.token)
    assert remote.items() == []


def test_a_token_longer_than_a_file_name(signed_out, remote, monkeypatch):
    """The client asks whether it is a file, and fails with the whole token in the message."""
    signed_out.token = "long-secret-" * 100
    monkeypatch.setenv("KAGGLE_API_TOKEN", signed_out.token)
    assert remote.items() == []
    monkeypatch.setenv("KAGGLE_API_TOKEN", "x" + signed_out.token)
    with pytest.raises(RemoteRefused, match="does not accept the credentials") as refusal:
        remote.items()
    assert "long-secret" not in str(refusal.value)


def test_a_token_in_a_file(signed_out, remote, tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", str(written(tmp_path / "token", signed_out.token + "\n")))
    assert remote.items() == []


def test_a_token_in_the_home(signed_out, remote):
    written(signed_out.home / ".kaggle" / "access_token", signed_out.token)
    assert remote.items() == []


@pytest.mark.parametrize("expired", [False, True])
def test_a_login(signed_out, remote, expired):
    """What `kaggle auth login` leaves; a token that has run out is renewed."""
    stored = {
        "refresh_token": "refresh",
        "access_token": "old" if expired else signed_out.token,
        "access_token_expiration": f"{2000 if expired else 2200}-01-01T00:00:00+00:00",
        "username": signed_out.user,
    }
    written(signed_out.home / ".kaggle" / "credentials.json", json.dumps(stored))
    signed_out.routes["users.AccountService/GenerateAccessToken"] = lambda call: as_json(
        {"token": signed_out.token, "expiresIn": 3600}
    )
    signed_out.open_routes.add("users.AccountService/GenerateAccessToken")
    assert remote.items() == []


def test_the_form_of_credentials_hides_them(service):
    from unbroken.remotes.kaggle.credentials import find_credentials

    assert service.key not in repr(find_credentials())
