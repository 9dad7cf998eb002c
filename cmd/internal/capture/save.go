package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// maxBlock is the longest block that is taken, in octets.
const maxBlock = 1 << 20

// Result is what a capture came to.
type Result struct {
	Packets uint64 // written
	Dropped uint64 // by the daemon, because they could not be written fast enough
	Keys    uint64 // lines
	// Complete says that the daemon ended the capture in good order: Dropped is only known then.
	Complete bool
}

// Save copies whole blocks from a capture's stream: packets to file, keys to keys (nil: there must be none). limit is
// the most packets to write, 0: all; full is called once when it is reached, and what comes after is left out. File and
// keys are sound at every moment, whatever the end. A stream that ends within a block is not an error, but not
// Complete either.
func Save(r io.Reader, file, keys io.Writer, limit uint64, full func()) (res Result, err error) {
	block := make([]byte, 0, 1<<17)
	for {
		block, err = readBlock(r, block[:0])
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return res, nil
		case err != nil:
			return res, err
		}
		body := block[8 : len(block)-4]
		switch kind := binary.LittleEndian.Uint32(block); kind {
		case keysBlock:
			lines, err := parseKeysBlock(body)
			if err != nil {
				return res, err
			}
			if keys == nil {
				return res, errors.New("the daemon sends keys that were not asked for")
			}
			if lines[0] != '#' {
				res.Keys++
			}
			_, err = keys.Write(lines)
			clear(block)
			if err != nil {
				return res, err
			}
			continue
		case packetBlock:
			if limit > 0 && res.Packets == limit {
				continue
			}
			res.Packets++
		case statisticsBlock:
			res.Dropped, res.Complete = droppedOf(body), true
		}
		if _, err := file.Write(block); err != nil {
			return res, err
		}
		if limit > 0 && res.Packets == limit && full != nil {
			full()
			full = nil
		}
	}
}

// readBlock reads one block. The blocks are this program's own: always little-endian.
func readBlock(r io.Reader, dst []byte) ([]byte, error) {
	dst = append(dst, make([]byte, 8)...)
	if _, err := io.ReadFull(r, dst); err != nil {
		return dst, err
	}
	size := binary.LittleEndian.Uint32(dst[4:])
	if size < blockOverhead || size > maxBlock || size%blockAlign != 0 {
		return dst, fmt.Errorf("the daemon sends a block of %d octets, which is no capture", size)
	}
	if cap(dst) < int(size) {
		dst = append(make([]byte, 0, size), dst...)
	}
	dst = dst[:size]
	_, err := io.ReadFull(r, dst[8:])
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return dst, err
}

// droppedOf finds isb_ifdrop in an Interface Statistics Block.
func droppedOf(body []byte) uint64 {
	const fixed, ifDrop = 12, 5
	for b := body[min(fixed, len(body)):]; len(b) >= 4; {
		code, n := binary.LittleEndian.Uint16(b), int(binary.LittleEndian.Uint16(b[2:]))
		padded := (n + blockAlign - 1) / blockAlign * blockAlign
		if code == 0 || len(b) < 4+padded {
			return 0
		}
		if code == ifDrop && n == 8 {
			return binary.LittleEndian.Uint64(b[4:])
		}
		b = b[4+padded:]
	}
	return 0
}
