/** The view of one server. */
import { route } from "../../routing";
import "../../styles/server.css";
import { ServerPage } from "./page";
import { ServerStart } from "./start";

export function ServerView() {
  const server = route.value.query["server"] ?? "";
  // with the name as its key, nothing of one server is ever shown as another's
  return server === "" ? <ServerStart /> : <ServerPage key={server} server={server} />;
}
