/** A table that becomes a list of cards where the screen is narrow; it stays a table for screen readers. */
import type { ComponentChildren } from "preact";

export interface CardColumn<Row> {
  /** Also the class of its cells, `card-...`, by which the styles place them in a card. */
  key: string;
  label: string;
  /** The label is for screen readers only, for example above a column of buttons. */
  isLabelHidden?: boolean;
  cell: (row: Row) => ComponentChildren;
}

export function CardTable<Row>(props: {
  caption: string;
  columns: readonly CardColumn<Row>[];
  rows: readonly Row[];
  rowKey: (row: Row) => string;
  rowClass?: (row: Row) => string;
  onKeyDown?: (event: KeyboardEvent) => void;
  /** Called when something in a row gets the focus. */
  onFocusRow?: (index: number) => void;
}) {
  const { columns, onFocusRow } = props;
  // Another display takes the roles of a table away, so they are named once more.
  return (
    // focusable, so that the keyboard can scroll it where it is wider than the screen
    <div class="table-scroll" tabIndex={0} role="region" aria-label={props.caption} onKeyDown={props.onKeyDown}>
      <table role="table" class="cards">
        <caption class="visually-hidden">{props.caption}</caption>
        <thead role="rowgroup">
          <tr role="row">
            {columns.map(({ key, label, isLabelHidden }) => (
              <th key={key} role="columnheader" scope="col" class={`card-${key}`}>
                <span class={isLabelHidden ? "visually-hidden" : ""}>{label}</span>
              </th>
            ))}
          </tr>
        </thead>
        <tbody role="rowgroup">
          {props.rows.map((row, index) => (
            <tr
              key={props.rowKey(row)}
              role="row"
              class={props.rowClass?.(row) ?? ""}
              onFocusCapture={onFocusRow && (() => onFocusRow(index))}
            >
              {columns.map(({ key, cell }) => (
                <td key={key} role="cell" class={`card-${key}`}>
                  {cell(row)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
