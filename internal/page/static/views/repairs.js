// What is being repaired, what waits, and what was done.

import { h, on } from '../dom.js'
import { ago, bytes, count, percent, seconds, sorted } from '../format.js'
import { repairCall, store } from '../store.js'
import { act, action, bar, empty, table } from './parts.js'

export const repairs = {
  render() {
    const all = sorted(store.state.repairs)
    const running = all.filter(([, r]) => r.state === 'running')
    const waiting = all.filter(([, r]) => !r.ended && r.state !== 'running').sort(([, a], [, b]) => Date.parse(a.added ?? 0) - Date.parse(b.added ?? 0))
    const ended = all.filter(([, r]) => r.ended && r.state !== 'running').sort(([, a], [, b]) => Date.parse(b.ended) - Date.parse(a.ended))
    const copies = sorted(store.state.copies)
    return [
      h('h1', {}, 'Repairs'),
      controls(),
      h('section', {}, h('h2', {}, `Running (${running.length})`),
        running.length ? running.map(([k, r]) => progress(k, r)) : empty('Nothing is being repaired.')),
      copies.length ? h('section', {}, h('h2', {}, 'Files being copied'), copies.map(([k, c]) => h('div', { class: 'card run', 'data-key': k },
        h('div', { class: 'row between' }, h('b', {}, `Shard ${c.shard} of ${c.policy}`), `${bytes(c.bytes)} of ${bytes(c.total)}`),
        bar(c.total ? c.bytes / c.total : 0, `Copy of shard ${c.shard}`), h('small', { class: 'muted' }, `from ${c.from} to ${c.to}, since `, ago(c.since))))) : null,
      h('section', {}, h('h2', {}, `Waiting (${waiting.length})`),
        waiting.length ? table(['Shard', 'Asked', 'Driven by', { num: 'Failed before' }, 'Last error', action()], waiting.map(([, r]) => [
          link(r), ago(r.added), r.node, { num: r.attempts ?? 0 }, { wide: r.error ?? '' },
          h('button', { class: 'button small', 'data-act': 'cancel', 'data-shard': r.shard, 'aria-label': `Cancel: the repair of shard ${r.shard}` }, 'Cancel'),
        ]), { label: 'Repairs that wait', key: (i) => waiting[i][0] }) : empty('Nothing waits.')),
      h('section', {}, h('h2', {}, `Ended (${ended.length})`),
        ended.length ? table(['Shard', 'Ended', 'Outcome', { num: 'Took' }, { num: 'Points' }, { num: 'Sent' }, { num: 'Received' }, { num: 'Decided' }], ended.map(([, r]) => [
          [link(r), h('div', { class: 'muted small', title: `The log of ${r.node} names the repair so` }, r.id)], ago(r.ended), [h('span', { class: `state ${r.state}` }, r.state), r.error ? h('div', { class: 'muted wide' }, r.error) : null],
          { num: r.started ? seconds((Date.parse(r.ended) - Date.parse(r.started)) / 1000) : '–' }, { num: count(r.points) },
          { num: bytes(r.sent) }, { num: bytes(r.received) }, { num: count(r.conflicts) },
        ]), { label: 'Repairs that ended', key: (i) => ended[i][0] }) : empty('No repair has ended since the nodes started.')),
    ]
  },
}

const link = (r) => store.state.shards[r.shard]
  ? h('a', { href: `#/shard/${r.shard}` }, `${r.shard} `, h('span', { class: 'muted' }, `${r.database}.${r.policy}`))
  : `${r.shard} (gone)`

// progress draws a repair that runs.
export function progress(key, r) {
  const left = r.left ? `, ${seconds(r.left)} left` : ''
  return h('div', { class: 'card run', 'data-key': key },
    h('div', { class: 'row between' }, h('b', {}, link(r)),
      h('button', { class: 'button small', 'data-act': 'cancel', 'data-shard': r.shard, 'aria-label': `Cancel: the repair of shard ${r.shard}` }, 'Cancel')),
    bar(r.progress, `Repair of shard ${r.shard}`),
    h('div', { class: 'row between muted small' },
      h('span', {}, `${percent(r.progress)}${left}`),
      h('span', {}, `${count(r.points)} points · ${bytes(r.sent)} sent · ${bytes(r.received)} received · ${bytes(r.rate)}/s`),
      h('span', { title: 'The log of this node names the repair so' }, `${r.id}, driven by ${r.node}`)))
}

const rates = [[1 << 20, '1 MiB/s'], [4 << 20, '4 MiB/s'], [16 << 20, '16 MiB/s'], [48 << 20, '48 MiB/s'], [128 << 20, '128 MiB/s'], [0, 'no limit']]

function controls() {
  const all = Object.values(store.state.settings ?? {})
  if (!all.length) return h('p', { class: 'muted' }, 'Anti-entropy is off at all nodes that answer.')
  const paused = all.filter((s) => s.paused).length
  const set = new Set(all.map((s) => s.max_rate))
  const rate = set.size === 1 ? [...set][0] : null
  const options = rates.some(([n]) => n === rate) || rate === null ? rates : [[rate, `${bytes(rate)}/s`], ...rates]
  return h('div', { class: 'card row', id: 'controls' },
    paused
      ? [h('strong', { class: 'warn' }, paused === all.length ? 'Repairs are paused.' : `Repairs are paused on ${paused} of ${all.length} nodes.`),
        h('button', { class: 'button primary', 'data-act': 'resume', id: 'resume' }, 'Resume')]
      : [h('span', {}, 'Repairs are taken as they come.'), h('button', { class: 'button', 'data-act': 'pause', id: 'pause' }, 'Pause')],
    h('span', { class: 'grow' }),
    h('label', { class: 'inline' }, 'At most, for each node', h('select', { 'data-act': 'max-rate', 'data-on': 'change', id: 'max-rate' },
      rate === null ? h('option', { value: '', selected: true }, 'different rates') : null,
      options.map(([n, t]) => h('option', { value: String(n), selected: n === rate }, t)))),
    h('button', { class: 'button', 'data-act': 'check-all' }, 'Check all now'))
}

on('pause', (b) => act(b, 'Repairs are paused. What runs stops, and keeps what it did.', () => repairCall('pause')))
on('resume', (b) => act(b, 'Repairs go on.', () => repairCall('resume')))
on('max-rate', (e) => {
  if (e.value !== '') act(null, 'The rate is changed, until a node loads its configuration.', () => repairCall('max-rate', { bytes: e.value }))
})
