"""labctl.base.errors: what the user reads."""

from labctl.base.errors import GateError, InputError, LabError, Problem


def test_a_lab_error_has_a_message_and_a_hint() -> None:
    error = LabError("It is wrong.", hint="Do better.")
    assert (str(error), error.message, error.hint) == ("It is wrong.", "It is wrong.", "Do better.")


def test_an_input_error_lists_its_problems_by_line_and_once() -> None:
    error = InputError("f.yaml", [Problem(7, "late."), Problem(2, "early."), Problem(7, "late.")])
    assert error.message == "'f.yaml' has 2 problems.\nf.yaml:2: early.\nf.yaml:7: late."


def test_one_problem_is_singular() -> None:
    assert InputError("f", [Problem(1, "x.")]).message.startswith("'f' has 1 problem.\n")


def test_all_that_users_can_mend_is_a_lab_error() -> None:
    assert issubclass(InputError, LabError)
    assert issubclass(GateError, LabError)
