"""Errors of durable workflows."""

from __future__ import annotations

from frys_node.base.errors import FrysError, RoutingError


class WorkflowError(FrysError):
    """A workflow could not be served. State is unchanged unless the message says otherwise."""

    code = "workflow.error"


class UnknownWorkflow(WorkflowError):
    """No workflow of that name and version is loaded here. Nothing was started."""

    code = "workflow.unknown"
    status = 404


class UnknownRun(WorkflowError):
    """There is no run with this id. State is unchanged."""

    code = "workflow.unknown_run"
    status = 404


class RunConflict(WorkflowError):
    """A run with this id exists and differs in workflow or input. The existing run is untouched."""

    code = "workflow.run_exists"
    status = 409


class Sealed(RoutingError):
    """The run's partition is moving to another node. Nothing was done; retry in a moment."""

    code = "workflow.sealed"
    retryable = True
    status = 503


class PartitionUnavailable(RoutingError):
    """The node that holds the run's journal does not answer. Nothing was done; the run goes on when it is back."""

    code = "routing.no_owner"
    retryable = True
    status = 503


class NotJournalable(WorkflowError):
    """A value cannot be written to the journal. The call was not made."""

    code = "workflow.not_journalable"
    status = 400


class Stalled(WorkflowError):
    """The engine cannot go on with this run. Its journal is intact; it continues once the cause is gone."""

    code = "workflow.stalled"
    status = 409


class Nondeterministic(Stalled):
    """The code does not do what the journal says it did. The run is stalled; its journal is intact."""

    code = "workflow.nondeterministic"


class NonDurableOperation(Stalled):
    """Workflow code did something that cannot be replayed. The run is stalled; its journal is intact."""

    code = "workflow.non_durable"


class StepFailed(WorkflowError):
    """A step gave up. Its failure is in the journal; the workflow may catch this and go on."""

    code = "workflow.step_failed"

    def __init__(self, message: str = "", *, hint: str = "", type_name: str = "", attempts: int = 1) -> None:
        super().__init__(message, hint=hint)
        self.type_name = type_name
        """Class name of the exception that the last attempt raised."""
        self.attempts = attempts


class RunEnded(WorkflowError):
    """The run has ended. Nothing was done."""

    code = "workflow.run_ended"
    status = 409


class Evicted(BaseException):
    """Thrown into workflow code when a run is put to sleep; never caught by ``except Exception``."""
