// SPDX-License-Identifier: Apache-2.0
// Building and changing the page. Text goes in by textContent only: names come from hosts, and hosts lie.

export function byId(id: string): HTMLElement {
  const found = document.getElementById(id);
  if (!found)
    throw new Error(`the page has no #${id}`);
  return found;
}

export function make<K extends keyof HTMLElementTagNameMap>(tag: K, className = "", text = ""): HTMLElementTagNameMap[K] {
  const node = document.createElement(tag);
  if (className)
    node.className = className;
  if (text)
    node.textContent = text;
  return node;
}

// Change only what differs, so that a screen reader, a selection and the focus stay where they are.
export function setText(node: Element, text: string): void {
  if (node.textContent !== text)
    node.textContent = text;
}

export function setClass(node: Element, className: string): void {
  if (node.className !== className)
    node.className = className;
}

export function setHidden(node: HTMLElement, hidden: boolean): void {
  if (node.hidden !== hidden)
    node.hidden = hidden;
}

export function append<T extends Element>(parent: T, ...children: Node[]): T {
  for (const child of children)
    parent.appendChild(child);
  return parent;
}

export interface Row<T> { node: HTMLElement; update(item: T): void }

// Rows that belong to keys: made once, updated in place, put in order, removed when their key is gone.
export class Keyed<T> {
  private readonly rows = new Map<string, Row<T>>();

  constructor(private readonly parent: HTMLElement, private readonly create: (key: string) => Row<T>) {}

  show(list: T[], key: (item: T) => string): void {
    const seen = new Set<string>();
    let at: ChildNode | null = this.parent.firstChild;
    for (const item of list) {
      const k = key(item);
      if (seen.has(k))
        continue;
      seen.add(k);
      let row = this.rows.get(k);
      if (!row) {
        row = this.create(k);
        this.rows.set(k, row);
      }
      row.update(item);
      if (row.node === at)
        at = at.nextSibling;
      else
        this.parent.insertBefore(row.node, at);
    }
    for (const [k, row] of this.rows) {
      if (!seen.has(k)) {
        row.node.remove();
        this.rows.delete(k);
      }
    }
  }
}
