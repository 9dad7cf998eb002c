package control

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Session is what GET /sessions answers, one object a line, every key always there: what could be resumed. It has no
// secrets in it.
type Session struct {
	Peer      string  `json:"peer"` // "ip:port", or "ip" if the peer opened the connection
	TEP       string  `json:"tep"`
	Cipher    string  `json:"cipher"`
	Role      string  `json:"role"`   // this host's when the keys were exchanged: "A" or "B"
	Next      uint64  `json:"i"`      // the number of the next secret
	Misses    int     `json:"misses"` // offers in a row that the peer did not take up
	Age       float64 `json:"age_ms"` // since the keys were exchanged
	ExpiresIn float64 `json:"expires_in_ms"`
}

// PrintSessions writes a table for people, one line a session.
func PrintSessions(w io.Writer, all []Session) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "no sessions")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "PEER\tKEYS\tROLE\tNEXT\tAGE\tEXPIRES IN")
	for _, s := range all {
		fmt.Fprintf(tw, "%s\t%s %s\t%s\t%d\t%v\t%v\n", s.Peer, s.Cipher, s.TEP, s.Role, s.Next, span(s.Age), span(s.ExpiresIn))
	}
	return tw.Flush()
}
