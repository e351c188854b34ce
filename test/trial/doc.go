// Package trial loads a cluster of processes with many points, takes a node
// away for a while without hinted handoff, and watches anti-entropy bring it back: see make trial.
package trial
