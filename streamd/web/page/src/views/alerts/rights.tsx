/** What silencing needs, and how to get it. */
import { AdminNote } from "../../ui/rights";

/** `isOpen`: the daemon has no tokens file, so that calls which change nothing need no token. */
export function SilencingNote({ isOpen }: { isOpen: boolean }) {
  return (
    <AdminNote servers="these servers" why="silencing needs a token with the scope admin for these servers.">
      {isOpen ? (
        <>
          The operator of the daemon sets <code>admin_token</code> in <code>[server]</code> of <code>config.toml</code>, or
          makes tokens with <code>streamd token create</code>.
        </>
      ) : (
        <>
          The operator of the daemon makes one: <code>streamd token create NAME --scope read --scope admin=web-*</code>.
        </>
      )}
    </AdminNote>
  );
}
