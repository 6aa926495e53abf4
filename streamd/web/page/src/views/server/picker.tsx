/** Finding a server by a part of its name, or by a glob. */
import { useEffect, useRef, useState } from "preact/hooks";
import { showName } from "../../format/names";
import { navigate } from "../../routing";
import { getJson } from "../../wire/api";

const WAIT_MS = 120;
const SUGGESTIONS = 10;

function openServer(server: string): void {
  navigate("servers", { server });
}

export function Picker(props: { server: string }) {
  const [text, setText] = useState("");
  const [names, setNames] = useState<string[]>([]);
  const [chosen, setChosen] = useState(-1);
  const [isOpen, setOpen] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  useSuggestions(isOpen, text, (found) => {
    setNames(found);
    setChosen(-1);
  });
  const open = (name: string) => {
    if (name === "") return;
    setText("");
    setOpen(false);
    input.current?.blur();
    openServer(name);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      setOpen(true);
      setChosen(moveChoice(chosen, event.key === "ArrowDown" ? 1 : -1, names.length));
    } else if (event.key === "Enter") {
      event.preventDefault();
      open(names[chosen] ?? (names.includes(text) || names.length !== 1 ? text : (names[0] ?? text)));
    } else if (event.key === "Escape") {
      setOpen(false);
    }
  };
  return (
    <div class="server-picker">
      <label class="field">
        <span>Server</span>
        <input
          ref={input}
          type="text"
          role="combobox"
          autocomplete="off"
          spellcheck={false}
          placeholder={props.server === "" ? "part of a name, or a glob" : "another server"}
          aria-expanded={isOpen && names.length > 0}
          aria-controls="server-names"
          aria-autocomplete="list"
          aria-activedescendant={chosen >= 0 ? `server-name-${chosen}` : undefined}
          value={text}
          onInput={(event) => {
            setText(event.currentTarget.value);
            setOpen(true);
          }}
          onFocus={() => setOpen(true)}
          onBlur={() => setOpen(false)}
          onKeyDown={onKeyDown}
        />
      </label>
      <ul id="server-names" role="listbox" aria-label="Servers" hidden={!isOpen || names.length === 0}>
        {names.map((name, place) => (
          <li
            key={name}
            id={`server-name-${place}`}
            role="option"
            aria-selected={place === chosen}
            // before the input loses the focus, which closes the list
            onMouseDown={(event) => {
              event.preventDefault();
              open(name);
            }}
          >
            {showName(name)}
          </li>
        ))}
      </ul>
    </div>
  );
}

/** The next choice; -1 is the text itself. */
export function moveChoice(chosen: number, step: number, count: number): number {
  if (count === 0) return -1;
  const next = chosen + step;
  if (next >= count) return -1;
  return next < -1 ? count - 1 : next;
}

function useSuggestions(isOpen: boolean, text: string, onFound: (names: string[]) => void): void {
  const latest = useRef(onFound);
  latest.current = onFound;
  useEffect(() => {
    if (!isOpen) return;
    const abort = new AbortController();
    const timer = setTimeout(() => {
      const query = { search: text, sort: text === "" ? "worst" : "name", limit: SUGGESTIONS };
      getJson<{ servers: { server: string }[] }>("v1/fleet", query, abort.signal)
        .then((answer) => latest.current(answer.servers.map(({ server }) => server)))
        .catch(() => undefined); // a name that is typed out opens without suggestions
    }, WAIT_MS);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [isOpen, text]);
}
