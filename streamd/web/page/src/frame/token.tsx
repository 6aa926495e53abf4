/** The dialog for a token. The token goes into the storage of this tab and into headers, and nowhere else. */
import { useSignal } from "@preact/signals";
import { Dialog } from "../ui/dialog";
import { Button, Field } from "../ui/basics";
import { findTokenProblem, WireError } from "../wire/api";
import { askForToken, setToken, token, tokenDialog, tokenWanted } from "../wire/session";

const HINT =
  "It needs the scopes read and subscribe, and admin to change versions or to silence alerts. The command " +
  "streamd token create makes one. It stays in this tab until you close it, and is never part of an address.";

/** Headers cannot have others. */
const TOKEN = /^[\x21-\x7e]+$/;

export function TokenDialog() {
  const why = tokenDialog.value;
  return why === null ? null : <TokenForm why={why} />;
}

/** Opens the dialog, for a reader that wants to do more than this token permits. */
export function TokenButton() {
  const hasToken = token.value !== "";
  const title = hasToken ? "This tab uses a token. Change or forget it" : "Give a token, for example to promote a version";
  return (
    <button type="button" class="icon-button" title={title} aria-label={title} onClick={() => askForToken("")}>
      <svg viewBox="0 0 16 16" width="14" height="14" aria-hidden="true">
        <circle cx="5" cy="8" r="3.2" fill={hasToken ? "currentColor" : "none"} stroke="currentColor" stroke-width="1.5" />
        <path d="M8 8h6.2v2.6M11.6 8v2" fill="none" stroke="currentColor" stroke-width="1.5" />
      </svg>
    </button>
  );
}

function TokenForm({ why }: { why: string }) {
  const problem = useSignal("");
  const isChecking = useSignal(false);
  const submit = async (event: SubmitEvent) => {
    event.preventDefault();
    const input = (event.currentTarget as HTMLFormElement).elements.namedItem("token") as HTMLInputElement;
    const value = input.value.trim();
    isChecking.value = true;
    problem.value = (await findProblem(value)) ?? "";
    isChecking.value = false;
    if (problem.value === "") setToken(value);
    else input.select();
  };
  return (
    <Dialog title="Give a token" onClose={() => (tokenDialog.value = null)}>
      <form onSubmit={(event) => void submit(event)} class="stack">
        {why !== "" && <p>The daemon says: {why}</p>}
        {/* A password manager wants to know for whom it keeps a password. */}
        <input
          type="text"
          class="visually-hidden"
          name="username"
          value="streamd"
          autocomplete="username"
          readOnly
          tabIndex={-1}
          aria-hidden="true"
        />
        <Field label="Token" hint={HINT}>
          <input
            type="password"
            name="token"
            autocomplete="current-password"
            autofocus
            required
            spellcheck={false}
            aria-invalid={problem.value !== ""}
            aria-describedby="token-problem"
          />
        </Field>
        <p id="token-problem" class={problem.value === "" ? "" : "error-note"} role="alert">
          {problem.value}
        </p>
        <div class="dialog-actions">
          {token.value !== "" && (
            <Button tone="danger" onClick={() => setToken("")}>
              Forget the token
            </Button>
          )}
          <Button onClick={() => (tokenDialog.value = null)}>Cancel</Button>
          <button type="submit" class="button button-primary" disabled={isChecking.value}>
            {isChecking.value ? "Checking …" : "Use this token"}
          </button>
        </div>
      </form>
    </Dialog>
  );
}

/** Why a token cannot be used; null if it can. */
async function findProblem(value: string): Promise<string | null> {
  if (!TOKEN.test(value)) return "A token has letters, digits and signs, without spaces.";
  try {
    const problem = await findTokenProblem(value);
    return problem === null ? null : `The daemon does not take it: ${problem}.`;
  } catch (error) {
    return error instanceof WireError ? error.message : String(error);
  }
}

/** Says below the top line that nothing is shown without a token, when the dialog was closed without one. */
export function TokenNotice() {
  const why = tokenWanted.value;
  if (why === null) return null;
  return (
    <div class="notice tone-warning">
      <span>The daemon shows nothing without a valid token.</span>
      <Button onClick={() => askForToken(why)}>Give a token</Button>
    </div>
  );
}
