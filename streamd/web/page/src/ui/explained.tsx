/** Terms with their meanings, folded away below a panel, for readers who are new to them. */

export function Explained(props: { terms: readonly (readonly [term: string, meaning: string])[] }) {
  return (
    <details class="explained no-print">
      <summary>What this means</summary>
      <dl>
        {props.terms.map(([term, meaning]) => (
          <div key={term}>
            <dt>{term}</dt>
            <dd>{meaning}</dd>
          </div>
        ))}
      </dl>
    </details>
  );
}
