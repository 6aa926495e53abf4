/** One of many choices, or all of them: a list that opens. */

export function Choice(props: {
  value: string;
  /** What the empty value is called, such as `All rules`. */
  all: string;
  choices: readonly string[];
  onChange: (value: string) => void;
}) {
  // A link may name what does not exist here; the choice shows it, so that the reader sees why nothing is found.
  const isKnown = props.value === "" || props.choices.includes(props.value);
  return (
    <select value={props.value} onChange={(event) => props.onChange(event.currentTarget.value)}>
      <option value="">{props.all}</option>
      {!isKnown && <option value={props.value}>{props.value}</option>}
      {props.choices.map((choice) => (
        <option key={choice} value={choice}>
          {choice}
        </option>
      ))}
    </select>
  );
}
