package process

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// Held is what a data node says of hinted handoff and of its copies.
type Held struct {
	Hints    map[uint64]int // bytes that it keeps for others, by the ID of the node they are for
	NotWhole int            // its copies that it knows not to be whole
}

// Held asks a data node, for two seconds at most.
func (n *Node) Held() (Held, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	h := Held{Hints: make(map[uint64]int)}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.HTTP+"/debug/vars", nil)
	if err != nil {
		return h, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return h, err
	}
	defer resp.Body.Close()
	var vars map[string]json.RawMessage
	if err := json.NewDecoder(resp.Body).Decode(&vars); err != nil {
		return h, fmt.Errorf("/debug/vars of %s: %w", n.Name, err)
	}
	for _, value := range vars {
		var stat struct {
			Name   string
			Tags   struct{ Node string }
			Values struct{ QueueBytes, QueueDepth, NotWhole float64 }
		}
		if json.Unmarshal(value, &stat) != nil {
			continue // not a statistic
		}
		switch stat.Name {
		case "copies":
			h.NotWhole += int(stat.Values.NotWhole)
		case "hh_node":
			id, err := strconv.ParseUint(stat.Tags.Node, 10, 64)
			if err != nil {
				return h, fmt.Errorf("/debug/vars of %s: hh_node has no node", n.Name)
			}
			if waiting := int(stat.Values.QueueBytes + stat.Values.QueueDepth); waiting > 0 {
				h.Hints[id] += waiting
			}
		}
	}
	return h, nil
}
