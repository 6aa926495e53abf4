/** Names of servers against what a reader types: a part of a name, or a glob. */

const WILDCARDS = /[*?[]/;

/** Whether a name has this part, or as a whole matches it as a glob (`*`, `?`, `[...]`); case does not count. */
export function matchesSearch(name: string, search: string): boolean {
  const wanted = search.trim().toLowerCase();
  if (wanted === "") return true;
  const text = name.toLowerCase();
  if (text === wanted) return true;
  return WILDCARDS.test(wanted) ? matchesAtoms(text, splitAtoms(wanted)) : text.includes(wanted);
}

/** Whether a glob of the daemon chooses a server: its exact name, or a pattern of the shell; case counts. */
export function matchesGlob(name: string, glob: string): boolean {
  return name === glob || (WILDCARDS.test(glob) && matchesAtoms(name, splitAtoms(glob)));
}

/** The names and globs that a reader typed, separated by commas, spaces or lines. */
export function splitNames(text: string): string[] {
  return [...new Set(text.split(/[\s,]+/u).filter((name) => name !== ""))];
}

/** `*`, `?`, a class, or one character. A `[` that no `]` closes is a character. */
const ATOM = /\[!?[\s\S][^\]]*\]|[\s\S]/gu;
const split = new Map<string, readonly string[]>();
const MAX_REMEMBERED = 200;

function splitAtoms(glob: string): readonly string[] {
  let atoms = split.get(glob);
  if (atoms === undefined) {
    atoms = glob.match(ATOM) ?? [];
    if (split.size >= MAX_REMEMBERED) split.clear();
    split.set(glob, atoms);
  }
  return atoms;
}

/** Returns to the last star only, so the time grows with the lengths of both, whatever the reader types. */
function matchesAtoms(name: string, atoms: readonly string[]): boolean {
  const characters = [...name];
  let [place, atom, starAtom, starPlace] = [0, 0, -1, 0];
  while (place < characters.length) {
    if (atoms[atom] === "*") {
      [starAtom, starPlace] = [atom, place];
      atom += 1;
    } else if (matchesAtom(characters[place] ?? "", atoms[atom])) {
      place += 1;
      atom += 1;
    } else if (starAtom >= 0) {
      starPlace += 1;
      [place, atom] = [starPlace, starAtom + 1];
    } else {
      return false;
    }
  }
  return atoms.slice(atom).every((each) => each === "*");
}

function matchesAtom(character: string, atom: string | undefined): boolean {
  if (atom === undefined) return false;
  if (atom === "?") return true;
  return atom.length > 1 && atom.startsWith("[") ? matchesClass(character, atom) : character === atom;
}

/** A class such as `[a-c]` or `[!x]`. A range that runs backwards matches nothing. */
function matchesClass(character: string, atom: string): boolean {
  const isNegative = atom.startsWith("[!");
  const inner = [...atom.slice(isNegative ? 2 : 1, -1)];
  let isIn = false;
  for (let place = 0; place < inner.length; place += 1) {
    const first = inner[place] ?? "";
    const last = inner[place + 1] === "-" && place + 2 < inner.length ? inner[place + 2] : undefined;
    if (last !== undefined) place += 2;
    isIn ||= character >= first && character <= (last ?? first);
  }
  return isIn !== isNegative;
}
