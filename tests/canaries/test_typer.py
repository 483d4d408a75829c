"""Names of Typer that depend on its version, and that ``cli.app`` leans on."""

from typing import Any

import pytest
import typer

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def twice(number: int) -> None:
    """Nothing but a command with an argument that can be wrong."""
    raise typer.Exit(2 * number)


@app.command()
def other() -> None:
    """Makes the application a group."""


def failure_of(*arguments: str) -> Any:
    """The exception of a command line that is wrong."""
    try:
        app(args=arguments, prog_name="program", standalone_mode=False)
    except Exception as error:
        return error
    raise AssertionError("it was accepted")


def test_an_exit_is_the_return_value() -> None:
    """``cli.app.run`` returns it as the exit code of the process."""
    assert app(args=["twice", "21"], prog_name="program", standalone_mode=False) == 42


def test_a_wrong_value_carries_the_name_and_the_facts() -> None:
    """``cli.wrong_values`` makes "expected a whole number, got 'x'" of them.

    Without them the message is pydantic's, which speaks of inputs and strings to be parsed.
    """
    error = failure_of("twice", "x")

    assert error.param.opts == ["number"]
    assert error.__cause__.errors()[0]["type"] == "int_parsing"
    assert error.__cause__.errors()[0]["input"] == "x"


@pytest.mark.parametrize("arguments", [("nonsense",), ("twice", "x"), ("twice",), ("twice", "1", "2")])
def test_a_wrong_command_line_is_one_base_class_with_message_and_code(arguments: tuple[str, ...]) -> None:
    """``cli.app`` finds the class among the bases of ``typer.BadParameter``, and makes one line of its message.

    Without it a typing error ends in a traceback.
    """
    error = failure_of(*arguments)

    assert "ClickException" in [base.__name__ for base in type(error).__mro__]
    assert "ClickException" in [base.__name__ for base in typer.BadParameter.__mro__]
    assert error.format_message()
    assert error.exit_code == 2
    assert error.ctx.command_path.startswith("program")


def test_no_command_is_an_error_that_holds_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """``cli.app`` knows it by its name, and prints its message, which is empty if Typer has shown the help itself."""
    error = failure_of()

    assert type(error).__name__ == "NoArgsIsHelpError"
    assert "Usage: program" in capsys.readouterr().out + error.format_message()
