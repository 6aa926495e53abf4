/** A share as a bar beside its number, which says the same in words. */
import type { Tone } from "./basics";

export function Bar(props: { share: number; tone?: Tone }) {
  const width = `${Math.min(Math.max(props.share, 0), 1) * 100}%`;
  return (
    <span class={`bar tone-${props.tone ?? "info"}`} aria-hidden="true">
      <span style={{ width }} />
    </span>
  );
}
