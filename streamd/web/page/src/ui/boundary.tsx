/** Catches what a view throws: the reader sees what happened, and the rest of the page goes on. */
import { Component, type ComponentChildren } from "preact";
import { Button } from "./basics";

interface Props {
  /** What failed, in words: "the view Fleet". */
  what: string;
  children: ComponentChildren;
}

export class Boundary extends Component<Props, { error: Error | null }> {
  override state: { error: Error | null } = { error: null };

  static override getDerivedStateFromError(error: unknown): { error: Error } {
    return { error: error instanceof Error ? error : new Error(String(error)) };
  }

  override componentDidCatch(error: unknown): void {
    console.error(error);
  }

  override render({ what, children }: Props) {
    const { error } = this.state;
    if (error === null) return children;
    return (
      <section class="panel stack" role="alert">
        <h1 tabIndex={-1}>Something broke here</h1>
        <p>
          {what[0]?.toUpperCase() + what.slice(1)} could not be drawn. This is a defect of the page; the daemon and your
          data are not affected. The other views work.
        </p>
        <pre>{error.stack ?? error.message}</pre>
        <div class="cluster">
          <Button onClick={() => this.setState({ error: null })}>Draw it again</Button>
          <Button onClick={() => location.reload()}>Load the page again</Button>
        </div>
      </section>
    );
  }
}
