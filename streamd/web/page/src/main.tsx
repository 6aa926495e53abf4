import { render } from "preact";
import { App } from "./app";
import "./styles/tokens.css";
import "./styles/base.css";
import "./styles/parts.css";
import "./styles/controls.css";
import "./styles/frame.css";
import "./styles/print.css";

const root = document.getElementById("page");
if (root !== null) render(<App />, root);
