package report

import (
	"fmt"
	"html"
	"html/template"
	"slices"
	"strconv"
	"strings"

	"innertun/cmd/internal/lab/cell"
	"innertun/tcpinc/innerspace"
)

// optionRow is what became of the options of some variants over a path, for all of which it is the same.
type optionRow struct {
	Path     string
	Variants string
	Columns  [4]template.HTML // SYN, SYN-ACK, later segments, inner ones
}

var optionColumns = [4]string{"SYN, client to server", "SYN-ACK, server to client", "later segments", "inner options"}

// kindNames are for the kinds that everybody knows. RFC 9293, RFC 7323, RFC 2018, RFC 7413, RFC 8547.
var kindNames = map[uint8]string{2: "MSS", 3: "window scale", 4: "SACK permitted", 5: "SACK", 8: "timestamps", 34: "Fast Open", 69: "ENO"}

func optionName(o cell.Option) string {
	if name, ok := kindNames[o.Kind]; ok {
		return name
	}
	if (o.Kind == 253 || o.Kind == 254) && len(o.Data) >= 4 {
		if id, err := strconv.ParseUint(o.Data[:4], 16, 16); err == nil && o.Kind == 253 && innerspace.ExID(id).Known() {
			return innerspace.ExID(id).String()
		}
		return fmt.Sprintf("%d/0x%s", o.Kind, o.Data[:4])
	}
	return fmt.Sprintf("kind %d", o.Kind)
}

// ordinary are options that are worth a word only if something happens to them.
func ordinary(kind uint8) bool { return slices.Contains([]uint8{2, 3, 4, 5, 8}, kind) }

// fate says for each option that was sent or received what became of it on the way.
func fate(sent, received []cell.Option, title string) string {
	var words []string
	add := func(class, mark string, o cell.Option, what string) {
		words = append(words, fmt.Sprintf(`<span class="opt %s" title="%s: %s">%s %s</span>`, class, html.EscapeString(title), what, mark, html.EscapeString(optionName(o))))
	}
	for _, o := range sent {
		i := slices.IndexFunc(received, func(r cell.Option) bool { return r.Kind == o.Kind && optionName(r) == optionName(o) })
		switch {
		case i < 0 && !(o.Kind == 5): // a SACK may be in a segment that was lost
			add("lost", "✕", o, "sent, not received")
		case i >= 0 && received[i].Data != o.Data && o.Kind != 8 && o.Kind != 5:
			add("changed", "≠", o, "received with other content")
		case i >= 0 && !ordinary(o.Kind):
			add("kept", "✓", o, "received as sent")
		}
	}
	for _, o := range received {
		if !slices.ContainsFunc(sent, func(s cell.Option) bool { return optionName(s) == optionName(o) }) && o.Kind != 5 {
			add("added", "+", o, "received, not sent")
		}
	}
	return strings.Join(words, " ")
}

// options lists what each side sent and saw.
func (in *input) options() (rows []optionRow) {
	for _, p := range in.Header.Paths {
		var of []optionRow
		for _, v := range in.Header.Variants {
			records := in.at(v, p.Name)
			if len(records) == 0 {
				continue
			}
			client, server := records[0].Result.Sides[0], records[0].Result.Sides[1]
			columns := [4]string{
				fate(client.Sent.SYN, server.Received.SYN, "SYN"),
				fate(server.Sent.SYN, client.Received.SYN, "SYN-ACK"),
				both(fate(client.Sent.Later, server.Received.Later, "client to server"), fate(server.Sent.Later, client.Received.Later, "server to client")),
				both(inner(client.Sent, server.Received, "to server"), inner(server.Sent, client.Received, "to client")),
			}
			row := optionRow{Path: p.Name, Variants: v}
			for i, c := range columns {
				row.Columns[i] = template.HTML(c)
			}
			if len(of) > 0 {
				row.Path = "" // said in the row before
			}
			if i := slices.IndexFunc(of, func(r optionRow) bool { return r.Columns == row.Columns }); i >= 0 {
				of[i].Variants += "; " + v
			} else {
				of = append(of, row)
			}
		}
		rows = append(rows, of...)
	}
	return rows
}

// both writes what happened in either direction, once if it is the same.
func both(there, back string) string {
	switch {
	case there == "" && back == "":
		return ""
	case there == "":
		return "← " + back
	case back == "":
		return "→ " + there
	}
	return "→ " + there + "<br>← " + back
}

func inner(sent, received cell.Packets, title string) string {
	var words []string
	for _, part := range []struct {
		place          string
		sent, received []cell.Option
	}{{"prefix", sent.Prefix, received.Prefix}, {"suffix", sent.Suffix, received.Suffix}, {"stream", sent.Stream, received.Stream}} {
		if text := fate(part.sent, part.received, title+", "+part.place); text != "" {
			words = append(words, part.place+" "+text)
		}
	}
	return strings.Join(words, ", ")
}
