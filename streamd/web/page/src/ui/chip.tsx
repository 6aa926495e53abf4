/** A number that is a filter: pressed, only what it counts is shown. */
import { formatWhole } from "../format/values";

export function Chip(props: {
  count: number;
  label: string;
  title?: string;
  isPressed: boolean;
  /** The class of its number, if it is not 0: `chip-firing` and so on. */
  kind?: string;
  onClick: () => void;
}) {
  const { count, kind } = props;
  return (
    <button
      type="button"
      class={kind !== undefined && count > 0 ? `chip chip-${kind}` : "chip"}
      title={props.title}
      aria-pressed={props.isPressed}
      onClick={props.onClick}
    >
      <strong>{formatWhole(count)}</strong> {props.label}
    </button>
  );
}
