/** The frame around every view: navigation, the state of the connection, notices, dialogs, keys. */
import { useEffect, useMemo } from "preact/hooks";
import { formatFullTime, now, zoneName } from "./format/times";
import { HelpButton, HelpDialog, isHelpOpen } from "./frame/help";
import { focusSearch, pageKey, useFocusOnNavigation } from "./frame/navigation";
import { Notices } from "./frame/notices";
import { firing, followOverview } from "./frame/overview";
import { TopState } from "./frame/state";
import { TokenButton, TokenDialog, TokenNotice } from "./frame/token";
import { linkTo, navigate, route, type View } from "./routing";
import { Boundary } from "./ui/boundary";
import { addShortcut, listenToKeys } from "./ui/keys";
import { composeTitle, viewTitle } from "./ui/view";
import { VIEW_ENTRIES, type ViewEntry } from "./views";

export function App() {
  const { view } = route.value;
  const key = pageKey(route.value);
  useFocusOnNavigation(key);
  usePageKeys();
  useEffect(followOverview, []);
  // The same element for as long as the page is the same: what happens in the frame does not draw the view again.
  const content = useMemo(() => <Content view={view} />, [key]);
  return (
    <>
      <a class="skip" href="#main" onClick={skipToMain}>
        Skip to the view
      </a>
      <header class="top">
        <a class="brand" href={linkTo("fleet")}>
          <Mark />
          streamd
        </a>
        <Navigation view={view} />
        <TopState />
        <TokenButton />
        <HelpButton />
      </header>
      <TokenNotice />
      <Notices />
      <main id="main" tabIndex={-1} key={key}>
        {content}
      </main>
      <Foot />
      <Title view={view} />
      <TokenDialog />
      <HelpDialog />
    </>
  );
}

function Content({ view }: { view: View }) {
  const entry = findEntry(view);
  return (
    <Boundary what={`the view ${entry.label}`}>
      <entry.component />
    </Boundary>
  );
}

function Navigation({ view }: { view: View }) {
  return (
    <nav aria-label="Views">
      {VIEW_ENTRIES.map((entry) => (
        <a key={entry.view} href={linkTo(entry.view)} aria-current={entry.view === view ? "page" : undefined}>
          {entry.label}
          {entry.view === "alerts" && <FiringCount />}
        </a>
      ))}
    </nav>
  );
}

function FiringCount() {
  if (firing.value === 0) return null;
  return (
    <span class="count">
      {firing.value}
      <span class="visually-hidden"> firing</span>
    </span>
  );
}

/** Keeps the title of the tab; draws nothing. */
function Title({ view }: { view: View }) {
  const title = viewTitle.value === "" ? findEntry(view).label : viewTitle.value;
  const text = composeTitle(title, firing.value);
  useEffect(() => {
    document.title = text;
  }, [text]);
  return null;
}

function findEntry(view: View): ViewEntry {
  const entry = VIEW_ENTRIES.find((each) => each.view === view);
  if (entry === undefined) throw new Error(`no view is called ${view}`);
  return entry;
}

function Foot() {
  return (
    <footer class="foot">
      <span>Times are in {zoneName()}.</span>
      <span class="print-only">Printed {formatFullTime(now.value)}</span>
    </footer>
  );
}

/** The mark: a line of the past, and the fan of what may come. */
function Mark() {
  return (
    <svg viewBox="0 0 24 24" aria-hidden="true">
      <path class="brand-fan" d="M11 14 22 5v15z" />
      <path class="brand-line" d="M2 16l3-3 3 3 3-2" stroke-width="2.4" stroke-linecap="round" stroke-linejoin="round" />
    </svg>
  );
}

/** The fragment of the address is the view, so a usual link to `#main` would leave it. */
function skipToMain(event: MouseEvent): void {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

function usePageKeys(): void {
  useEffect(() => {
    const ends = [
      addShortcut({ keys: "/", label: "search", run: focusSearch }),
      ...VIEW_ENTRIES.map(({ view, label, key }) =>
        addShortcut({ keys: `g ${key}`, label: `go to ${label}`, run: () => navigate(view) }),
      ),
      addShortcut({ keys: "?", label: "show these keys", run: () => (isHelpOpen.value = true) }),
      listenToKeys(),
      listenToEscape(),
    ];
    return () => ends.forEach((end) => end());
  }, []);
}

/** Escape leaves a field, so that the keys of the page work again. */
function listenToEscape(): () => void {
  const listen = (event: KeyboardEvent) => {
    if (event.key !== "Escape" || event.defaultPrevented || document.querySelector("dialog[open]") !== null) return;
    if (document.activeElement instanceof HTMLElement) document.activeElement.blur();
  };
  document.addEventListener("keydown", listen);
  return () => document.removeEventListener("keydown", listen);
}
