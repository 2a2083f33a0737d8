"""`postroad htpasswd`: its lines log their users in."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from postroad_operator.cli import main
from postroad_operator.compile.accounts import check_htpasswd
from postroad_transport.auth.accounts import parse_accounts
from postroad_transport.auth.password_verifier import PasswordVerifier


def made(*arguments: str, password: str = "pencil\n"):
    return CliRunner().invoke(main, ["htpasswd", *arguments], input=password)


@pytest.mark.parametrize("scheme", [("--iterations", "4096"), ("--scheme", "argon2")])
async def test_a_line_logs_its_user_in(scheme):
    result = made("kim", *scheme, "--address", "kim@example.com", "--address", "*@sales.example")
    assert (result.exit_code, result.stderr) == (0, "")
    assert check_htpasswd(result.stdout.encode(), "field") == []
    accounts = parse_accounts(result.stdout.encode(), verifier=PasswordVerifier())
    assert accounts.problems == ()
    assert (await accounts.verify("kim", "pencil")).addresses == ("kim@example.com", "*@sales.example")
    assert await accounts.verify("kim", "other") is None
    assert accounts.have_scram_keys == (scheme[0] == "--iterations")


def test_two_lines_for_one_password_differ():
    assert made("kim", "--iterations", "4096").stdout != made("kim", "--iterations", "4096").stdout


@pytest.mark.parametrize(
    ("arguments", "password"),
    [
        (("k:im",), "pencil\n"),
        (("#kim",), "pencil\n"),
        (("kim ",), "pencil\n"),
        (("kim", "--address", "nowhere"), "pencil\n"),
        (("kim", "--address", "a@b,c@d"), "pencil\n"),
        (("kim", "--iterations", "1"), "pencil\n"),
        (("kim",), "\n"),
        (("kim",), "bell\x07\n"),
    ],
)
def test_what_could_not_be_used_is_refused(arguments, password):
    result = made(*arguments, password=password)
    assert result.exit_code != 0
    assert result.stdout == ""
    assert "pencil" not in result.stderr
