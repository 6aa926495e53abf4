/** The keys of the page: a dialog that lists those which work in this view. */
import { signal } from "@preact/signals";
import { Dialog } from "../ui/dialog";
import { areKeysOn, setKeysOn, type Shortcut, shortcuts } from "../ui/keys";

export const isHelpOpen = signal(false);

export function HelpButton() {
  return (
    <button type="button" class="icon-button" title="Keys" aria-label="Keys" onClick={() => (isHelpOpen.value = true)}>
      ?
    </button>
  );
}

export function HelpDialog() {
  if (!isHelpOpen.value) return null;
  return (
    <Dialog title="Keys" onClose={() => (isHelpOpen.value = false)}>
      <dl class="facts keys">
        {listShortcuts(shortcuts.value).map(({ keys, label }) => (
          <>
            <dt>
              {keys.split(" ").map((key, place) => (
                <>
                  {place > 0 && " "}
                  <kbd>{key}</kbd>
                </>
              ))}
            </dt>
            <dd>{label}</dd>
          </>
        ))}
        <dt>
          <kbd>Esc</kbd>
        </dt>
        <dd>close a dialog, leave a field</dd>
      </dl>
      <label class="cluster keys-choice">
        <input type="checkbox" checked={areKeysOn.value} onChange={(event) => setKeysOn(event.currentTarget.checked)} />
        Single keys work on this device
      </label>
      <form method="dialog" class="dialog-actions">
        <button class="button" autofocus>
          Close
        </button>
      </form>
    </Dialog>
  );
}

/** Each shortcut once: the newest of those with the same keys, which is the one that works. */
function listShortcuts(known: readonly Shortcut[]): Shortcut[] {
  return [...new Map(known.map((each) => [each.keys, each])).values()];
}
