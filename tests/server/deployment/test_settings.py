"""The one file of settings: what is unknown, missing or out of bounds is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from pocketfl_server.deployment.settings import (
    SettingsError,
    check_secrets,
    read_secret,
    read_settings,
)

KEYS = f'plan_keys = ["{"0" * 64}"]\n'
BOTH = KEYS + "[back_end]\n[trusted_tier]\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "pocketfl.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOTH + "ledgre = 'x'", "unknown key 'trusted_tier.ledgre'; did you mean 'ledger'"),
        (BOTH + "[trusted_tier.tls]\nkey = 'a'\ncert = 'b'", "'trusted_tier.tls.cert'"),
        (BOTH + "[backend]", "unknown key 'backend'; did you mean 'back_end'"),
        (BOTH + "zzz = 1", "known are ledger, host"),
        ("[back_end]\n[trusted_tier]", "missing required field `plan_keys`"),
        (KEYS, "nothing to start"),
        (BOTH + "port = '8000'", r"Expected `int`, got `str` - at `trusted_tier.port`"),
        (BOTH + "port = 65536", "trusted_tier.port must be 0 to 65535"),
        (BOTH + "attestation.kind = 'command'", "goes with kind = 'command'"),
        (KEYS + "[back_end]", "say either where the trusted tier is"),
        (KEYS + "[back_end]\ngateways = 2\ntrusted_url = 'http://x'", "need PostgreSQL"),
        (KEYS + "[back_end", "is no TOML"),
        ("plan_keys = []\n[trusted_tier]", "plan_keys is empty"),
    ],
    ids=range(13),
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    """Every refusal is one line with the file's name, the place and what to do."""
    with pytest.raises(SettingsError, match=said) as caught:
        read_settings(written(tmp_path, text))
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_files_are_named_from_the_folder_of_the_settings(tmp_path: Path, monkeypatch) -> None:
    """Wherever the command runs, the same files are meant; a variable overrides the database."""
    monkeypatch.delenv("POCKETFL_DATABASE_URL", raising=False)
    path = written(tmp_path, BOTH)
    settings = read_settings(path)
    assert settings.back_end.database == f"sqlite:///{tmp_path}/pocketfl.db"
    assert settings.trusted_tier.ledger == f"{tmp_path}/ledger.db"
    monkeypatch.setenv("POCKETFL_DATABASE_URL", "postgresql+psycopg://a:b@c/d")
    assert read_settings(path).back_end.database == "postgresql+psycopg://a:b@c/d"


def test_secrets_come_from_files_or_the_environment(tmp_path: Path, monkeypatch) -> None:
    """A file counts before its variable; without both the message names both."""
    for name in ("OPERATOR_KEY", "ENROLMENT_KEY", "TRUSTED_TOKEN"):
        monkeypatch.delenv(f"POCKETFL_{name}", raising=False)
    with pytest.raises(SettingsError, match="trusted_token_file, or POCKETFL_TRUSTED_TOKEN"):
        check_secrets(read_settings(written(tmp_path, BOTH)))
    monkeypatch.setenv("POCKETFL_OPERATOR_KEY", "of the environment")
    assert read_secret("operator_key", None) == "of the environment"
    (tmp_path / "key").write_text("of the file\n")
    assert read_secret("operator_key", str(tmp_path / "key")) == "of the file"
    (tmp_path / "key").write_text("\n")
    with pytest.raises(SettingsError, match="key is empty"):
        read_secret("operator_key", str(tmp_path / "key"))
