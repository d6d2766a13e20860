package sql92

import (
	"math"
	"strconv"
)

// parseInt reads a whole decimal integer with an optional sign, as Java's
// Long.valueOf does for ASCII digits: no blanks, leading zeros allowed.
func parseInt(b []byte) (int64, bool) {
	negative := false
	if len(b) > 0 && (b[0] == '-' || b[0] == '+') {
		negative = b[0] == '-'
		b = b[1:]
	}
	if len(b) == 0 {
		return 0, false
	}
	var n uint64
	for _, c := range b {
		c -= '0'
		if c > 9 || n > math.MaxInt64/10 {
			return 0, false
		}
		n = n*10 + uint64(c)
	}
	switch {
	case negative && n <= 1<<63:
		return -int64(n), true
	case !negative && n < 1<<63:
		return int64(n), true
	}
	return 0, false
}

// exact are the powers of ten that a double holds exactly.
var exact = [...]float64{
	1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
	1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
}

// parseDouble reads a whole number as Java's Double.valueOf does: blanks and
// control characters around it, a type suffix (f or d), NaN and Infinity are
// allowed, too large is infinite. Hexadecimal is not read.
//
// It allocates only for what no double needs: a number of more than 32 bytes, or
// beyond the range of doubles.
func parseDouble(b []byte) (float64, bool) {
	for len(b) > 0 && b[0] <= ' ' {
		b = b[1:]
	}
	for len(b) > 0 && b[len(b)-1] <= ' ' {
		b = b[:len(b)-1]
	}
	i := 0
	sign := 1.0
	if len(b) > 0 && (b[0] == '-' || b[0] == '+') {
		if b[0] == '-' {
			sign = -1
		}
		i = 1
	}
	switch string(b[i:]) {
	case "NaN":
		return math.NaN(), true
	case "Infinity":
		return math.Inf(int(sign)), true
	}
	var mantissa uint64
	digits, scale := 0, 0 // digits read; how many of them after the point
	for point := false; i < len(b); i++ {
		if c := b[i] - '0'; c <= 9 {
			if mantissa < 1<<53 { // otherwise the slow way reads it all again
				mantissa = mantissa*10 + uint64(c)
			}
			digits++
			if point {
				scale++
			}
		} else if b[i] == '.' && !point {
			point = true
		} else {
			break
		}
	}
	if digits == 0 {
		return 0, false
	}
	exponent := 0
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		negative := i < len(b) && b[i] == '-'
		if i < len(b) && (b[i] == '-' || b[i] == '+') {
			i++
		}
		start := i
		for ; i < len(b) && b[i]-'0' <= 9; i++ {
			exponent = min(exponent*10+int(b[i]-'0'), 1<<20)
		}
		if i == start {
			return 0, false
		}
		if negative {
			exponent = -exponent
		}
	}
	end := i
	if i < len(b) && (b[i]|0x20 == 'f' || b[i]|0x20 == 'd') {
		i++
	}
	if i != len(b) {
		return 0, false
	}
	if exponent -= scale; mantissa < 1<<53 {
		// Both operands are exact, so the one rounding is the right one.
		switch {
		case exponent == 0 || mantissa == 0:
			return sign * float64(mantissa), true
		case exponent > 0 && exponent < len(exact):
			return sign * float64(mantissa) * exact[exponent], true
		case exponent < 0 && -exponent < len(exact):
			return sign * float64(mantissa) / exact[-exponent], true
		}
	}
	// The syntax is right; what may be wrong is the range, and then f is infinite.
	f, _ := strconv.ParseFloat(string(b[:end]), 64)
	return f, true
}

// compareDoubles orders as Java's Double.compareTo: -0 before 0, NaN last and
// equal to itself.
func compareDoubles(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	case a == b && a != 0:
		return 0
	}
	return rank(a) - rank(b)
}

// rank orders -0, 0, anything, NaN.
func rank(f float64) int {
	switch {
	case f != f:
		return 3
	case f != 0:
		return 2
	case math.Signbit(f):
		return 0
	}
	return 1
}
