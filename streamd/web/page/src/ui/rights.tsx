/** What a reader may not do, and how to get the right. */
import type { ComponentChildren } from "preact";
import type { WireError } from "../wire/api";
import { askForToken, token } from "../wire/session";
import { Button } from "./basics";

/**
 * Says that an action needs the scope `admin`, while the page has no token: such actions are never open to all.
 *
 * `servers` are those that it concerns, such as `all servers`; `why` is what the dialog for the token says.
 */
export function AdminNote(props: { servers: string; why: string; children?: ComponentChildren }) {
  if (token.value !== "") return null;
  return (
    <p class="admin-note tone-warning">
      This needs a token with the scope <code>admin</code> for {props.servers}. {props.children}{" "}
      <Button onClick={() => askForToken(props.why)}>Give a token</Button>
    </p>
  );
}

/** Why the daemon refused an action, in its words; `null` while it has not. */
export function Refusal({ error }: { error: WireError | null }) {
  if (error === null) return <p role="alert" />;
  // Without a token the note above has the same button.
  const isRight = token.value !== "" && (error.status === 401 || error.status === 403);
  return (
    <p class="error-note" role="alert">
      Nothing was changed: {error.message}
      {isRight && <Button onClick={() => askForToken(error.message)}>Give another token</Button>}
    </p>
  );
}
