/*-------------------------------------------------------------------------
 *
 * numeric_form.h
 *	  How a numeric is stored, for those who build one themselves.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ETL_NUMERIC_FORM_H
#define ETL_NUMERIC_FORM_H

/*
 * The image of a numeric, as it is stored since PostgreSQL 9.1 and must
 * remain so for pg_upgrade: after the length word, a header of 16 bits, then
 * digits of base 10000, most significant first, without zero digits at either
 * end.  This is the short form, told by the top bit:
 *
 *	bit 15		always 1		bit 14		always 0
 *	bit 13		negative		bits 12-7	display scale, 0 to 63
 *	bit 6		sign of weight	bits 5-0	weight, in two's complement with
 *											bit 6: -64 to 63
 *
 * The weight is the power of 10000 of the first digit; zero has no digits,
 * weight 0 and is positive.  The server writes the short form whenever scale
 * and weight fit into it; whoever builds one keeps to these limits.
 */
#define NUMERIC_FORM_SHORT	   0x8000
#define NUMERIC_FORM_NEGATIVE  0x2000
#define NUMERIC_FORM_SCALE_BIT 7
#define NUMERIC_FORM_WEIGHT	   0x007F
#define NUMERIC_FORM_MAX_SCALE 63
#define NUMERIC_FORM_HEADER	   (VARHDRSZ + sizeof(uint16))

#define NUMERIC_FORM_MIN_WEIGHT (-64)
#define NUMERIC_FORM_MAX_WEIGHT 63

/* Decimal digits in one of base 10000. */
#define DIGITS_PER_GROUP 4

#endif /* ETL_NUMERIC_FORM_H */
