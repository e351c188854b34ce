// How the shards are spread over the nodes.

import { h } from '../dom.js'
import { bytes, count, sorted } from '../format.js'
import { store } from '../store.js'
import { bar, empty, table } from './parts.js'

export const balance = {
  render() {
    const nodes = sorted(store.state.nodes).filter(([, n]) => !n.passive || n.shards)
    const most = Math.max(1, ...nodes.map(([, n]) => n.bytes ?? 0))
    const policies = sorted(store.state.policies, ([a], [b]) => (a < b ? -1 : 1))
    const few = policies.filter(([, p]) => p.too_few)
    return [
      h('h1', {}, 'Balance'),
      h('section', {}, h('h2', {}, 'Bytes on each node'),
        h('ul', { class: 'bars' }, nodes.map(([id, n]) => h('li', { 'data-key': id },
          h('span', {}, n.address, n.draining ? h('span', { class: 'muted' }, ' (being drained)') : null), bar((n.bytes ?? 0) / most, `Bytes of ${n.address}`), h('span', { class: 'num' }, n.up ? bytes(n.bytes) : 'away'))))),
      few.length ? h('section', {}, h('h2', {}, 'Too few copies'),
        h('p', {}, 'These shards have fewer owners than their policy asks for. ', h('code', {}, 'influxd-ctl rebalance'), ' adds one to each, and ', h('code', {}, 'influxd-ctl rebalance -dry-run'), ' shows its plan.'),
        table(['Policy', { num: 'Copies asked for' }, { num: 'Shards with fewer' }, 'Copy'], few.map(([key, p]) => [key, { num: p.replicas }, { num: count(p.too_few) }, { wide: proposals(p) }]),
          { label: 'Policies with too few copies' })) : null,
      h('section', {}, h('h2', {}, 'Shards of each policy, by node'),
        policies.length ? table(['Policy', { num: 'Copies' }, { num: 'Shards' }, ...nodes.map(([, n]) => ({ num: n.address }))],
          policies.map(([key, p]) => [key, { num: p.replicas }, { num: count(p.shards) }, ...nodes.map(([id]) => ({ num: count(p.owned[id]) }))]),
          { label: 'Shards of each policy, by node' }) : empty('There is no shard yet.')),
    ]
  },
}

// proposals says for the first shards which copy would help: to the active node that is up, is not being drained, and
// has the least.
function proposals(p) {
  const nodes = store.state.nodes
  const free = sorted(nodes).filter(([, n]) => n.up && !n.passive && !n.draining).sort(([, a], [, b]) => a.bytes - b.bytes)
  const out = []
  for (const [id, s] of sorted(store.state.shards)) {
    if (s.database !== p.database || s.policy !== p.name || s.owners.length >= p.replicas) continue
    const from = s.owners.find((o) => nodes[o]?.up)
    const to = free.find(([n]) => !s.owners.includes(n))
    if (from && to) out.push(h('div', {}, h('code', {}, `influxd-ctl copy-shard ${nodes[from].address} ${to[1].address} ${id}`)))
    if (out.length === 5) break
  }
  return out.length ? out : 'Add a data node first: no other active one is up.'
}
