package main

import (
	"encoding/json"
	"fmt"
)

// source is where a dashboard reads from.
type source struct {
	kind   string // of the data source in Grafana
	title  string
	uid    string
	nodes  any // the query for the variable $node
	target func(q query) object
}

type object = map[string]any

var prometheus = source{
	kind: "prometheus", title: "Concord (Prometheus)", uid: "concord-prometheus",
	nodes: object{"query": "label_values(influxdb_agreement_shards, nodeID)", "refId": "nodes"},
	target: func(q query) object {
		return object{"expr": q.promQL(), "legendFormat": q.legend, "range": true}
	},
}

var internal = source{
	kind: "influxdb", title: "Concord (InfluxQL, database _internal)", uid: "concord-internal",
	nodes: `SHOW TAG VALUES FROM "agreement" WITH KEY = "nodeID"`,
	target: func(q query) object {
		return object{"query": q.influxQL(), "rawQuery": true, "alias": q.alias(), "resultFormat": "time_series"}
	},
}

// interval is the shortest one between two points: nodes write to _internal every ten seconds, not all at once.
const interval = "30s"

// Heights of panels, in units of the grid.
const (
	rowHeight    = 1
	numberHeight = 4
	chartHeight  = 8
	gridWidth    = 24
)

// colours are those of the statuses of shards, which everybody tells apart.
var colours = map[string]string{
	"equal": "#56B4E9", "unknown": "#999999", "diff": "#E69F00", "missing": "#F0E442", "conflict": "#CC79A7",
	"corrupt": "#D55E00",
}

// render is the dashboard for a source as Grafana reads it.
func render(s source) []byte {
	ref := object{"type": s.kind, "uid": "${datasource}"}
	var panels []object
	id, y := 0, 0
	add := func(p object, x, w, h int) {
		id++
		p["id"], p["gridPos"] = id, object{"x": x, "y": y, "w": w, "h": h}
		panels = append(panels, p)
	}
	for _, r := range rows {
		if r.only != "" && r.only != s.kind {
			continue
		}
		add(object{"type": "row", "title": r.title, "collapsed": false, "panels": []object{}}, 0, gridWidth, rowHeight)
		y += rowHeight
		x, height := 0, 0
		for _, p := range r.panels {
			if x+p.width > gridWidth {
				x, y, height = 0, y+height, 0
			}
			h := chartHeight
			if p.number {
				h = numberHeight
			}
			add(p.render(s, ref), x, p.width, h)
			x, height = x+p.width, max(height, h)
		}
		y += height
	}
	b, err := json.MarshalIndent(object{
		"uid": s.uid, "title": s.title, "tags": []string{"concord", "influxdb"}, "schemaVersion": 39, "version": 1,
		"editable": true, "graphTooltip": 1, "refresh": "30s", "timezone": "browser",
		"time":        object{"from": "now-3h", "to": "now"},
		"description": "Do the replicas hold the same data, what is done about it, and is any node in trouble?",
		"templating": object{"list": []object{
			{"type": "datasource", "name": "datasource", "label": "Data source", "query": s.kind, "refresh": 1},
			{
				"type": "query", "name": "node", "label": "Node", "datasource": ref, "query": s.nodes, "definition": "",
				"refresh": 2, "multi": true, "includeAll": true, "allValue": ".*", "sort": 1,
				"current": object{"selected": true, "text": []string{"All"}, "value": []string{"$__all"}},
			},
		}},
		"annotations": object{"list": []object{}},
		"panels":      panels,
	}, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("a dashboard is no JSON: %v", err)) // it is made of literals
	}
	return append(b, '\n')
}

func (p panel) render(s source, ref object) object {
	var targets []object
	for i, q := range p.queries {
		t := s.target(q)
		t["refId"], t["datasource"] = string(rune('A'+i)), ref
		targets = append(targets, t)
	}
	defaults := object{"unit": p.unit, "thresholds": p.thresholds()}
	out := object{
		"title": p.title, "description": p.help, "datasource": ref, "targets": targets, "interval": interval,
		"fieldConfig": object{"defaults": defaults, "overrides": p.overrides()},
	}
	if p.number {
		defaults["color"] = object{"mode": "thresholds"}
		out["type"] = "stat"
		out["options"] = object{
			"colorMode": "value", "graphMode": "none", "justifyMode": "center", "textMode": "value", "orientation": "auto",
			"wideLayout": true, "showPercentChange": false, "percentChangeColorMode": "standard",
			"reduceOptions": object{"calcs": []string{"lastNotNull"}, "fields": "", "values": false},
		}
		return out
	}
	stacking, fill := "none", 0
	if p.stacked {
		stacking, fill = "normal", 60
	}
	style := "off"
	if p.warn != nil || p.alarm != nil {
		style = "dashed"
	}
	defaults["color"] = object{"mode": "palette-classic"}
	defaults["custom"] = object{
		"drawStyle": "line", "lineWidth": 1, "fillOpacity": fill, "showPoints": "never", "spanNulls": 120000,
		"stacking":        object{"mode": stacking, "group": "A"},
		"thresholdsStyle": object{"mode": style},
	}
	if p.unit != milliseconds { // a clock may be behind
		defaults["min"] = 0
	}
	out["type"] = "timeseries"
	out["options"] = object{
		"legend":  object{"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []string{}},
		"tooltip": object{"mode": "multi", "sort": "desc"},
	}
	return out
}

// thresholds colour numbers and mark lines.
func (p panel) thresholds() object {
	steps := []object{{"color": "green", "value": nil}}
	if p.below {
		steps = []object{{"color": "red", "value": nil}}
		if p.alarm != nil {
			steps = append(steps, object{"color": "orange", "value": *p.alarm})
		}
		if p.warn != nil {
			steps = append(steps, object{"color": "green", "value": *p.warn})
		}
		return object{"mode": "absolute", "steps": steps}
	}
	if p.warn != nil {
		steps = append(steps, object{"color": "orange", "value": *p.warn})
	}
	if p.alarm != nil {
		steps = append(steps, object{"color": "red", "value": *p.alarm})
	}
	return object{"mode": "absolute", "steps": steps}
}

// overrides give the statuses of shards their colours.
func (p panel) overrides() []object {
	out := []object{}
	if !p.stacked {
		return out
	}
	for _, q := range p.queries {
		if c, ok := colours[q.legend]; ok {
			out = append(out, object{
				"matcher":    object{"id": "byName", "options": q.legend},
				"properties": []object{{"id": "color", "value": object{"mode": "fixed", "fixedColor": c}}},
			})
		}
	}
	return out
}
