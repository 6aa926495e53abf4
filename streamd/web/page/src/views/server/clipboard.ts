/** Copying, also where the browser has no clipboard for the page: by plain HTTP to another machine. */

/** Copy a text; false if the browser does not allow it. */
export async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

function copyBySelection(text: string): boolean {
  const area = document.createElement("textarea");
  area.value = text;
  area.setAttribute("readonly", "");
  area.className = "visually-hidden";
  const focused = document.activeElement;
  document.body.append(area);
  area.select();
  try {
    // the only way without a secure context
    return document.execCommand("copy");
  } catch {
    return false;
  } finally {
    area.remove();
    if (focused instanceof HTMLElement) focused.focus();
  }
}

/** Save a text as a file. */
export function saveText(text: string, name: string, type: string): void {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000); // the browser may still be reading it
}

/** A name for a file: what file systems dislike is replaced. */
export function fileName(server: string, target: string): string {
  const safe = (text: string) => text.replace(/[^\w.-]+/g, "_").slice(0, 80);
  return `${safe(server)}${target === "" ? "" : `-${safe(target)}`}.csv`;
}
