// What several views share.

import { confirm, h, on, toast } from '../dom.js'
import { ago, count, sorted } from '../format.js'
import { nodeName, repairCall, store } from '../store.js'

// statuses of shards, the worst first: the letter in a cell, its name, and what it means.
export const statuses = {
  corrupt: { letter: '✕', name: 'damaged', means: 'a file of an owner cannot be read back as it was written' },
  conflict: { letter: '!', name: 'conflict', means: 'owners refuse points that others have: a field has different types' },
  missing: { letter: 'M', name: 'missing', means: 'an owner has no copy, or lost it' },
  diff: { letter: '≠', name: 'differs', many: 'differ', means: 'the contents of the copies differ' },
  away: { letter: 'A', name: 'owner away', means: 'an owner does not answer; nothing else is known to be wrong' },
  unchecked: { letter: '?', name: 'not checked yet', means: 'the copies were not compared yet' },
  single: { letter: '1', name: 'one copy', means: 'there is one copy: nothing to compare' },
  equal: { letter: '=', name: 'equal', means: 'the copies are equal' },
}

export const statusMark = (status) => h('span', { class: `mark s-${status}` }, statuses[status]?.letter ?? '·')

export const statusText = (status) => h('span', { class: 'status' }, statusMark(status), statuses[status]?.name ?? status)

export const empty = (text) => h('p', { class: 'empty' }, text)

// table makes a table of rows, each a list of cells; a cell may be {num: x} or {wide: x}.
export function table(heads, rows, { label, key } = {}) {
  const cell = (c) => c?.num !== undefined ? h('td', { class: 'num' }, c.num) : c?.wide !== undefined ? h('td', { class: 'wide' }, c.wide) : h('td', {}, c)
  return h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': label },
    h('table', {}, label ? h('caption', { class: 'hidden' }, label) : null,
      h('thead', {}, h('tr', {}, heads.map((t) => t?.num !== undefined ? h('th', { class: 'num', scope: 'col' }, t.num) : h('th', { scope: 'col' }, t)))),
      h('tbody', {}, rows.map((r, i) => h('tr', key ? { 'data-key': key(i) } : {}, r.map(cell))))))
}

export function bar(part, text, kind = '') {
  return h('div', {
    class: `bar ${kind}`, role: 'progressbar', 'aria-valuemin': 0, 'aria-valuemax': 100, 'aria-valuenow': Math.round(100 * part),
    'aria-label': text,
  }, h('span', { style: { width: `${100 * Math.min(1, Math.max(0, part))}%` } }))
}

// action is the head of a column of buttons.
export const action = () => h('span', { class: 'hidden' }, 'Action')

export const field = (name, ...value) => h('div', { class: 'field' }, h('dt', {}, name), h('dd', {}, value))

// deletesWaiting lists the deletes that wait for nodes which missed them; null for none.
export function deletesWaiting() {
  const list = sorted(store.state.deletes, ([, a], [, b]) => Date.parse(a.since ?? 0) - Date.parse(b.since ?? 0))
  if (!list.length) return null
  const shown = list.slice(0, 100)
  const more = store.state.summary.more_deletes
  const names = (ids) => ids.map(nodeName).join(', ')
  return h('section', { 'data-key': 'deletes', id: 'deletes-waiting' }, h('h2', {}, 'Deletes that wait'),
    h('p', { class: 'muted' }, `${more ? `More than ${count(list.length)} deletes wait` : list.length === 1 ? 'One delete waits' : `${count(list.length)} deletes wait`} for nodes on which they did not run. `,
      'They run as soon as these are back. Until then the copies there count as not whole, and are not read.'),
    table(['Since', 'Database', 'Delete', 'Waits for', 'Kept by'], shown.map(([, d]) => [
      d.since ? ago(d.since) : '–', d.database || '–', { wide: h('code', {}, d.text) }, names(d.for), names(d.kept),
    ]), { label: 'Deletes that wait', key: (i) => shown[i][0] }),
    list.length > shown.length ? h('p', { class: 'muted' }, `The ${count(shown.length)} oldest are shown.`) : null)
}

// act runs an action of an operator, and says what became of it.
export async function act(button, done, fn) {
  if (button) button.disabled = true
  try {
    await fn()
    if (done) toast(done)
    return true
  } catch (e) {
    toast(e.message, 'bad')
    return false
  } finally {
    if (button) button.disabled = false
  }
}

on('repair', async (b) => {
  const shard = b.dataset.shard
  const yes = await confirm({
    title: `Repair shard ${shard}?`, yes: 'Repair it',
    text: [
      'Each owner gets what it lacks, and points with different values get the one that the rules choose. That cannot be undone.',
      'The dry run shows what a repair would do. Clients are served first; a repair can be canceled, and keeps what it did.',
    ],
  })
  if (yes) act(b, `The repair of shard ${shard} is queued.`, () => repairCall('repair', { id: shard }))
})
on('check', (b) => act(b, `The owners of shard ${b.dataset.shard} are compared now.`, () => repairCall('check', { id: b.dataset.shard })))
on('check-all', (b) => act(b, 'All nodes check their shards now.', () => repairCall('check')))
on('cancel', (b) => act(b, `The repair of shard ${b.dataset.shard} ends, and keeps what it did.`,
  () => repairCall('cancel-repair', { id: b.dataset.shard })))

// shardButtons are what an administrator can do with a shard.
export function shardButtons(id, shard) {
  if (!store.session.admin) return null
  return h('div', { class: 'row' },
    h('button', { class: 'button primary', 'data-act': 'repair', 'data-shard': id, id: 'repair', disabled: shard.repair !== undefined || shard.owners.length < 2 }, 'Repair'),
    h('button', { class: 'button', 'data-act': 'check', 'data-shard': id }, 'Check now'),
    shard.repair ? h('button', { class: 'button', 'data-act': 'cancel', 'data-shard': id }, 'Cancel the repair') : null)
}
