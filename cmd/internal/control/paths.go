package control

import (
	"fmt"
	"net/http"
	"net/netip"
)

// Path is what GET /paths answers, one object a line, every key always there: what is remembered of a network, of a
// destination as that network leads to it, or of a destination that had encryption or Inner Space.
type Path struct {
	Kind         string  `json:"kind"`        // "network" or "destination"
	Network      string  `json:"network"`     // "" of what is known of a destination whatever the network
	Destination  string  `json:"destination"` // "ip:port"; "" of a network
	Fault        string  `json:"fault"`       // fallback_reason that was met; "": none
	Failures     int     `json:"failures"`    // in a row
	FailedAgo    float64 `json:"failed_ago_ms"`
	RetryIn      float64 `json:"retry_in_ms"` // 0: at the next connection
	Encrypted    bool    `json:"encrypted"`   // it had encryption
	EncryptedAgo float64 `json:"encrypted_ago_ms"`
	Ratcheted    bool    `json:"ratcheted"` // it must have encryption from now on
	Inner        string  `json:"inner"`     // upgraded, legacy or eats-syn-data; "": another matter, or not known
	InnerAgo     float64 `json:"inner_ago_ms"`
	InnerFor     float64 `json:"inner_for_ms"` // how long that is remembered still
}

// Flushed is what POST /paths/flush and POST /sessions/flush answer.
type Flushed struct {
	Forgotten int `json:"forgotten"` // entries
}

// ParseDestination reads IP:PORT or IP; port 0 stands for all ports.
func ParseDestination(s string) (netip.AddrPort, error) {
	if to, err := netip.ParseAddrPort(s); err == nil && to.Port() != 0 {
		return to, nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a, 0), nil
	}
	return netip.AddrPort{}, fmt.Errorf("%q is no destination, expected IP or IP:PORT ([IP]:PORT for IPv6)", s)
}

// flush answers POST /paths/flush and POST /paths/flush?destination=IP:PORT, and likewise for sessions.
func flush(forget func(to netip.AddrPort) int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var to netip.AddrPort
		if r.URL.RawQuery != "" {
			var err error
			if to, err = ParseDestination(r.URL.Query().Get("destination")); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
		}
		writeJSON(w, Flushed{Forgotten: forget(to)})
	}
}
