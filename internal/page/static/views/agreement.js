// Do the replicas agree? What needs a person, and what is being done?

import { h } from '../dom.js'
import { ago, count, percent, sorted } from '../format.js'
import { store } from '../store.js'
import { deletesWaiting, empty, statuses, statusMark } from './parts.js'
import { recent } from './events.js'
import { progress } from './repairs.js'
import { legend, map } from './shards.js'

const signs = { good: '✓', busy: '↻', warn: '!', bad: '✕' }
const signNames = { good: 'All is well', busy: 'Work is going on', warn: 'Look at it', bad: 'Something is wrong' }
const counted = [
  ['equal', 'agree'], ['diff', 'differ'], ['missing', 'missing'], ['conflict', 'conflict'], ['corrupt', 'corrupt'],
  ['away', 'away'], ['unchecked', 'unchecked'],
]

export const agreement = {
  render() {
    const s = store.state
    const sum = s.summary
    const running = sorted(s.repairs).filter(([, r]) => r.state === 'running')
    return [
      h('section', { class: `hero ${sum.level}`, 'aria-labelledby': 'sentence' },
        h('span', { class: 'sign', role: 'img', 'aria-label': signNames[sum.level] }, signs[sum.level]),
        h('div', { class: 'grow' },
          h('h1', { id: 'sentence', 'aria-live': 'polite' }, sum.sentence),
          h('p', { class: 'sub' }, facts(s))),
        store.session.admin && sum.enabled ? h('button', { class: 'button', 'data-act': 'check-all' }, 'Check all now') : null),
      share(sum),
      attention(s),
      deletesWaiting(),
      running.length ? h('section', { 'data-key': 'running' }, h('h2', {}, 'Being repaired'), running.map(([k, r]) => progress(k, r))) : null,
      h('section', { 'data-key': 'map' },
        h('div', { class: 'row between' }, h('h2', {}, 'Shards'), h('a', { href: '#/shards' }, 'Filter and look closer')),
        Object.keys(s.shards).length ? [map(s.shards, 'all'), legend()] : empty('There is no shard yet. The first point that is written makes one.')),
      nodes(s),
      store.session.admin && Object.keys(s.events).length ? h('section', { 'data-key': 'events' },
        h('div', { class: 'row between' }, h('h2', {}, 'Latest events'), h('a', { href: '#/events' }, 'All events')), recent(6)) : null,
    ]
  },
}

function facts(s) {
  const sum = s.summary
  const nodes = Object.values(s.nodes)
  const up = nodes.filter((n) => n.up).length
  const out = [sum.checked ? ['Last full check ', ago(sum.checked)] : 'No full check has ended yet',
    up === nodes.length ? `${count(up)} of ${count(nodes.length)} data nodes are up` : h('strong', {}, `${nodes.length - up} of ${nodes.length} data nodes away`)]
  if (sum.repairing + sum.queued) out.push(`${count(sum.repairing)} being repaired, ${count(sum.queued)} waiting`)
  if (sum.writing) out.push(`${count(sum.writing)} being written`)
  if (sum.single && sum.shards) out.push(`${count(sum.single)} more with one copy`)
  return out.map((o, i) => [i ? h('span', { class: 'sep', 'aria-hidden': 'true' }, ' · ') : null, o])
}

// share draws how many shards are how.
function share(sum) {
  if (!sum.shards) return null
  const parts = counted.map(([status, name]) => [status, sum[name]]).filter(([, n]) => n)
  return h('section', { class: 'share', 'data-key': 'share' },
    h('div', { class: 'stack', role: 'img', 'aria-label': parts.map(([s, n]) => `${n} ${statuses[s].name}`).join(', ') },
      parts.map(([status, n]) => h('span', { class: `s-${status}`, 'data-key': status, style: { 'flex-grow': n } }))),
    h('ul', { class: 'counts' }, parts.map(([status, n]) => h('li', { 'data-key': status },
      h('a', { href: `#/shards/${status}` }, statusMark(status), h('b', {}, count(n)), ' ', n === 1 ? statuses[status].name : statuses[status].many ?? statuses[status].name)))))
}

// nodes says of each data node whether it is up, and how much of its disk is free.
function nodes(s) {
  return h('section', { 'data-key': 'nodes' },
    h('div', { class: 'row between' }, h('h2', {}, 'Data nodes'), h('a', { href: '#/nodes' }, 'Look closer')),
    h('ul', { class: 'strip' }, sorted(s.nodes).map(([id, n]) => {
      const free = Math.min(1, ...(n.disks ?? []).map((d) => d.free / d.size))
      const low = (n.disks ?? []).some((d) => d.low)
      const hints = (n.hints ?? []).some((x) => x.bytes > 0)
      return h('li', { class: n.up && !low ? '' : 'bad-edge', 'data-key': id },
        h('span', { class: n.up ? 'good-text' : 'bad' }, n.up ? '✓' : '✕', h('span', { class: 'hidden' }, n.up ? ' up' : ' away')),
        h('b', {}, n.address),
        h('span', { class: 'muted small' }, [n.zone, n.up ? null : 'does not answer', n.disks?.length ? `${percent(free)} free` : null, hints ? 'keeps writes for others' : null].filter(Boolean).join(' · ')))
    })))
}

function attention(s) {
  const list = sorted(s.attention, ([a, x], [b, y]) => (x.level === y.level ? (a < b ? -1 : 1) : x.level === 'bad' ? -1 : 1))
  if (!list.length) return null
  return h('section', { 'aria-labelledby': 'needs', 'data-key': 'needs' },
    h('h2', { id: 'needs' }, 'Needs a person'),
    h('ul', { class: 'attention' }, list.map(([key, a]) => h('li', { class: a.level, 'data-key': key },
      h('span', { class: 'sign', 'aria-hidden': 'true' }, a.level === 'bad' ? '✕' : '!'),
      h('div', {}, h('strong', {}, a.text), h('p', {}, a.do)),
      a.shard && s.shards[a.shard] ? h('a', { href: `#/shard/${a.shard}` }, `Shard ${a.shard}`) : null))))
}
