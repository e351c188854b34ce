// The queries that run at all nodes.

import { confirm, h, on } from '../dom.js'
import { ago, seconds, sorted } from '../format.js'
import { nodeName, post, store } from '../store.js'
import { act, action, empty, table } from './parts.js'

export const queries = {
  render() {
    const all = sorted(store.state.queries, ([, a], [, b]) => Date.parse(a.since) - Date.parse(b.since))
    return [
      h('h1', {}, 'Queries'),
      h('p', { class: 'muted' }, 'What clients ask of all data nodes now, the longest first.'),
      all.length ? table([{ num: 'Runs for' }, 'Node', 'Database', 'Statement', action()], all.map(([, q]) => [
        { num: h('span', { title: `since ${q.since}` }, seconds((Date.now() - Date.parse(q.since)) / 1000)) }, nodeName(q.node), q.database || '–',
        { wide: h('code', {}, q.text) },
        q.status === 'running'
          ? h('button', { class: 'button small danger', 'data-act': 'kill', 'data-node': q.node, 'data-id': q.id, 'data-text': q.text, 'aria-label': `End it: query ${q.id}` }, 'End it')
          : q.status,
      ]), { label: 'Queries that run', key: (i) => all[i][0] }) : empty('No query runs at this moment.'),
    ]
  },
}

on('kill', async (b) => {
  const { node, id, text } = b.dataset
  const yes = await confirm({ title: 'End this query?', text: [text, 'Its client gets an error.'], yes: 'End it', danger: true })
  if (yes) act(b, 'The query was told to end.', () => post('/kill-query', { node, id }))
})
