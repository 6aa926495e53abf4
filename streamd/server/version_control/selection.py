"""Which versions serve: one, or several as an ensemble; chosen, checked, and held for as long as they are loaded."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from streamd.core.accuracy.scores import TrainingScores
from streamd.core.contract import ModelContract
from streamd.core.errors import ReloadError, RepositoryError
from streamd.core.state.board import MAX_MODEL_BYTES
from streamd.repository.files import VersionHold
from streamd.repository.seal import SealedVersion, changed_since, seal
from streamd.repository.versions import EngineRepository, EngineVersion, PassedOver
from streamd.runtime.accuracy.live import read_training_scores
from streamd.runtime.lanes.deployment import Model
from streamd.server.config import EngineSection


@dataclass(frozen=True)
class Selection:
    """Sound versions that serve as one; `gc` leaves their folders alone until `release`."""

    versions: tuple[SealedVersion, ...]
    held: ExitStack
    training: TrainingScores | None = None
    """What drift is measured against; an ensemble was never trained as one."""
    missed: tuple[PassedOver, ...] = ()
    """What should serve in place of it, and cannot."""

    @property
    def name(self) -> str:
        """What forecasts call their model: the version's name, or `ensemble(a,b)`."""
        names = ",".join(version.name for version in self.versions)
        return names if len(self.versions) == 1 else f"ensemble({names})"

    @property
    def contract(self) -> ModelContract:
        """The contract that all of them share."""
        return self.versions[0].contract

    @property
    def model(self) -> Model:
        """What the pipeline must know of it."""
        return Model(self.name.encode(), self.versions[0].server_ids)

    def release(self) -> None:
        """Let go of the folders; twice is harmless."""
        self.held.close()


def select_versions(settings: EngineSection, named: Iterable[str] = (), *, starting: bool = False) -> Selection:
    """Check, read and hold the versions that are named, else those the settings pin, else the repository's choice.

    `starting` passes over a record of promotions that cannot be read. Raises `RepositoryError` with the reason; blocks
    for as long as it takes to read the files through.
    """
    repository = EngineRepository(Path(settings.engines))
    names = tuple(named) or settings.pinned
    missed: tuple[PassedOver, ...] = ()
    if names:
        chosen = tuple(repository.load(name) for name in names)
    else:
        choice = repository.choice_at_start() if starting else repository.choice()
        chosen, missed = (choice.version,), choice.missed
    _check_together(chosen)
    with ExitStack() as held:
        for version in chosen:
            held.enter_context(VersionHold(version.path))
        versions = tuple(map(seal, chosen))
        training = read_training_scores(versions[0].path) if len(versions) == 1 else None
        selection = Selection(versions, held.pop_all(), training, missed)
    if len(selection.model.name) > MAX_MODEL_BYTES:
        selection.release()
        raise RepositoryError(f"{selection.name}: a name of over {MAX_MODEL_BYTES} bytes; name the versions shorter")
    return selection


def check_same_contract(selection: Selection, contract: ModelContract) -> None:
    """Raise `ReloadError` where a selection's contract is not that of the state which is open."""
    if differing := _differences(selection.contract, contract):
        raise ReloadError(
            f"{selection.name}: its {' and '.join(differing)} differ from those of what serves; "
            "the state is laid out by them, so it needs a restart"
        )


def check_choice(selection: Selection, serving: str) -> None:
    """Raise `ReloadError` where a selection would take the place of what serves, or should, since that is damaged.

    A version that is only newer than the chosen one, and not what serves, is no reason to stay.
    """
    reasons = [each.reason for each in selection.missed if each.rule != "newest" or each.name == serving]
    if reasons:
        raise ReloadError(
            f"{'; '.join(reasons)}: {serving} goes on serving, and {selection.name} would be the next best; "
            "mend it, or promote another version"
        )


def check_same(selection: Selection, loaded: Selection) -> None:
    """Raise `ReloadError` where a version's files are not those that are loaded under its name."""
    for now, then in zip(selection.versions, loaded.versions, strict=True):
        if changed := changed_since(then, now):
            raise ReloadError(
                f"{now.path}: its {' and '.join(changed)} changed since it was loaded; what is loaded stays: give the "
                "new one a name of its own, or restart"
            )


def _check_together(versions: tuple[EngineVersion, ...]) -> None:
    first = versions[0]
    for each in versions[1:]:
        if differing := _differences(each.contract, first.contract):
            raise RepositoryError(f"{each.path}: its {' and '.join(differing)} differ from {first.name}'s: no ensemble")
        if each.server_ids != first.server_ids:
            raise RepositoryError(f"{each.path}: its server_mapping.json differs from {first.name}'s: no ensemble")


def _differences(one: ModelContract, other: ModelContract) -> list[str]:
    """What of two contracts differs; the network's kind may."""
    fields = ("features", "targets", "quantiles", "context_length", "horizon", "step_seconds", "units")
    if replace(one, architecture="") == replace(other, architecture=""):
        return []
    return [name for name in fields if getattr(one, name) != getattr(other, name)]
