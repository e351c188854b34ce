// The data nodes: which are up, their disks, what waits for them, and what clients ask of them.

import { chart } from '../chart.js'
import { h, on, toast } from '../dom.js'
import { ago, bytes, count, lasting, percent, seconds, short, sorted } from '../format.js'
import { get, nodeName, store } from '../store.js'
import { bar } from './parts.js'

const metrics = {
  points: ['Points written', (n) => `${short(n)}/s`], writes: ['Writes', (n) => `${short(n)}/s`], queries: ['Queries', (n) => `${short(n)}/s`],
  write_p99: ['p99 of writes', seconds], query_p99: ['p99 of queries', seconds],
}
let metric = 'points'
let hour = null // load of the last hour, by node
let redraw = () => {}

export const nodes = {
  async enter(draw) {
    redraw = draw
    hour = null
    if (!store.session.admin) return
    try {
      hour = await get('/load')
    } catch (e) {
      toast(e.message, 'bad')
    }
    draw()
  },
  render() {
    const all = sorted(store.state.nodes)
    if (!store.session.admin) {
      return [h('h1', {}, 'Nodes'), h('ul', { class: 'cards' }, all.map(([id, n]) => h('li', { class: 'card', 'data-key': id }, head(n))))]
    }
    return [h('h1', {}, 'Nodes'), h('ul', { class: 'cards' }, all.map(([id, n]) => card(id, n))), lastHour(all)]
  },
}

const head = (n) => h('div', { class: 'row between' },
  h('h2', { class: 'h3' }, n.address),
  h('span', { class: `pill ${n.up ? 'good' : 'bad'}` }, n.up ? '✓ up' : '✕ away', ' ', n.since ? lasting(n.since) : null))

function card(id, n) {
  const l = n.load
  return h('li', { class: `card node ${n.up ? '' : 'away'}`, 'data-key': id, id: `node-${id}` }, head(n),
    h('p', { class: 'muted small' }, [`ID ${id}`, n.passive ? 'passive' : null, n.draining ? 'being drained' : null, n.version ? `version ${n.version}` : null, n.zone ? `zone ${n.zone}` : null,
      `clients at ${n.http}`].filter(Boolean).join(' · ')),
    n.error ? h('p', { class: 'bad small' }, n.error) : null,
    l ? h('dl', { class: 'numbers' },
      number('Points/s', short(l.points)), number('Writes/s', short(l.writes)), number('p99 of writes', l.write_p99 ? seconds(l.write_p99) : '–'),
      number('Queries/s', short(l.queries)), number('p99 of queries', l.query_p99 ? seconds(l.query_p99) : '–')) : null,
    (n.disks ?? []).map((d) => disk(d)),
    n.up ? h('p', { class: 'small muted' }, n.passive ? 'Coordinates, and owns no shard' : copies(id, n)) : null,
    (n.hints ?? []).filter((x) => x.bytes > 0 || x.dropped).map((x) => hints(x)))
}

// copies says what a node has. Whether one that is drained can be removed is in the metadata: it may have lost a copy.
function copies(id, n) {
  const all = `${count(n.shards)} copies, ${bytes(n.bytes)}`
  if (!n.draining) return all
  const owns = Object.values(store.state.shards).some((s) => s.owners.includes(id))
  return owns ? `${all}: they are moved to other nodes` : 'It owns no shard any more, and can be removed'
}

const number = (name, value) => h('div', {}, h('dt', {}, name), h('dd', {}, value))

function disk(d) {
  const used = 1 - d.free / d.size
  return h('div', { class: 'disk' },
    h('div', { class: 'row between small' }, h('span', { class: 'path muted', title: d.path }, d.path), h('span', { class: d.low ? 'bad' : '' }, `${bytes(d.free)} free (${percent(d.free / d.size)})`)),
    h('div', { class: 'limited' }, bar(used, `Disk ${d.path} used`, d.low ? 'bad' : used > 0.85 ? 'warn' : ''), h('span', { class: 'line', title: '5 % must be free' })))
}

function hints(x) {
  return h('div', { class: 'hints small' }, h('b', {}, `Keeps ${bytes(x.bytes)} for ${nodeName(x.for)}`),
    h('div', { class: 'muted' }, [`${count(x.shards)} shards`, x.rate ? `${bytes(x.rate)}/s` : 'nothing is being sent',
      x.drained ? `done in ${seconds(x.drained)}` : null].filter(Boolean).join(' · '),
    x.oldest ? [' · the oldest of ', ago(x.oldest)] : null, x.dropped ? h('span', { class: 'warn' }, ` · ${count(x.dropped)} dropped`) : null))
}

function lastHour(all) {
  for (const [id, n] of all) { // go on where the hour ended
    const list = hour?.[id]
    if (list && n.load && list.at(-1).start < n.load.start) hour[id] = [...list.slice(1), n.load]
  }
  const [name, format] = metrics[metric]
  return h('section', {}, h('div', { class: 'row between' }, h('h2', {}, 'Last hour'),
    h('label', { class: 'inline' }, 'Show', h('select', { 'data-act': 'metric', 'data-on': 'change' },
      Object.entries(metrics).map(([k, [t]]) => h('option', { value: k, selected: k === metric }, t))))),
  hour ? chart({ key: 'hour', label: `${name} of each data node in the last hour`, format, lines: all.filter(([id]) => hour[id]).map(([id, n]) => ({
    name: n.address, x: hour[id].map((p) => Date.parse(p.start) / 1000), y: hour[id].map((p) => (metric.endsWith('p99') && !p[metric] ? null : p[metric])),
  })) }) : h('p', { class: 'muted', role: 'status' }, 'Asking the nodes…'))
}

on('metric', (e) => {
  metric = e.value
  redraw()
})
