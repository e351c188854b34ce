// The meta nodes, which have the state of the cluster under Raft.

import { h } from '../dom.js'
import { ago, count, sorted } from '../format.js'
import { store } from '../store.js'
import { table } from './parts.js'

export const meta = {
  render() {
    const all = sorted(store.state.meta)
    const leader = all.find(([, m]) => m.state === 'leader')
    const up = all.filter(([, m]) => m.up).length
    return [
      h('h1', {}, 'Meta'),
      h('p', {}, leader ? [h('b', {}, leader[1].address), ` leads ${all.length === 1 ? 'alone' : `${all.length} meta nodes`}, in term ${count(leader[1].term)}. `]
        : h('strong', { class: 'bad' }, 'There is no leader: nothing of the metadata can change. '),
      all.length > 1 ? `${up} of ${all.length} answer; ${Math.floor(all.length / 2) + 1} are needed.` : null),
      table(['Meta node', 'Part', 'Raft', { num: 'Term' }, { num: 'Applied' }, { num: 'Behind' }, 'Up since', 'Version'], all.map(([, m]) => [
        h('b', {}, m.address), m.up ? h('span', { class: `state ${m.state}` }, m.state) : h('span', { class: 'bad', title: m.error }, 'does not answer'),
        m.raft, { num: count(m.term) }, { num: count(m.applied) }, { num: m.lag ? h('span', { class: 'warn' }, count(m.lag)) : '0' },
        m.started ? ago(m.started) : '–', m.version ?? '–',
      ]), { label: 'Meta nodes', key: (i) => all[i][0] }),
    ]
  },
}
