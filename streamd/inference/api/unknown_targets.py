"""The promise of an engine version beyond its graph: of a target without a value in its window there is no number.

Knows the contract of a version and arrays. A plain graph has no contract, and its outputs stay as they are.
"""

import numpy as np

from streamd.core.contract import ModelContract
from streamd.core.unknown_targets import find_unknown
from streamd.inference.runner import Arrays


def hide_unknown_targets(contract: ModelContract, feeds: Arrays, outputs: Arrays) -> None:
    """Make the targets NaN in `predictions (batch, horizon, targets, quantiles)` that no row of a window has.

    `feeds` are the inputs of a version; with one target, its output has no axis of targets.
    """
    unknown = find_unknown(feeds["encoder_cont"], contract.target_columns)
    predictions = outputs["predictions"]
    if len(contract.targets) == 1:
        predictions = predictions[:, :, None]
    for target in np.flatnonzero(unknown.any(axis=0)).tolist():
        predictions[unknown[:, target], :, target] = np.nan
