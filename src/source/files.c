/*-------------------------------------------------------------------------
 *
 * files.c
 *	  Which files a source names: one absolute path, or a glob.
 *
 * The order of the result is that of the bytes of the names, whatever the
 * locale, so that a run over the same files is the same run everywhere.
 * A name that exists literally is that file, even if it holds characters
 * that mean something in a glob.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <glob.h>
#include <sys/stat.h>

#include "source/source.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "nodes/pg_list.h"

/* Paths in byte order. */
static int
compare_paths(const ListCell *a, const ListCell *b)
{
	return strcmp((const char *) lfirst(a), (const char *) lfirst(b));
}

/* The regular files among what glob(3) found, copied.  Never throws but for memory. */
static List *
regular_files(const glob_t *found)
{
	List *paths = NIL;
	size_t i;

	for (i = 0; i < found->gl_pathc; i++)
	{
		struct stat st;

		if (stat(found->gl_pathv[i], &st) == 0 && S_ISREG(st.st_mode))
			paths = lappend(paths, pstrdup(found->gl_pathv[i]));
	}
	return paths;
}

/* Run glob(3); whatever happens its memory is freed. */
static List *
expand_glob(const char *pattern)
{
	glob_t found;
	List *volatile paths = NIL;
	int rc;

	memset(&found, 0, sizeof(found));
	rc = glob(pattern, GLOB_NOSORT, NULL, &found);
	PG_TRY();
	{
		if (rc == GLOB_NOSPACE)
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
		if (rc != 0 && rc != GLOB_NOMATCH)
			ereport(ERROR, (errcode_for_file_access(),
							errmsg("could not expand \"%s\": %m", pattern)));
		if (rc == 0)
			paths = regular_files(&found);
	}
	PG_FINALLY();
	{
		globfree(&found);
	}
	PG_END_TRY();
	return paths;
}

/*
 * Throw if the path is no text in the server's encoding: it could neither be
 * kept in loaded_file nor shown.
 */
static void
check_path_encoding(const char *path)
{
	StringInfoData shown;

	if (pg_verifymbstr(path, (int) strlen(path), true))
		return;
	initStringInfo(&shown);
	for (const char *s = path; *s != '\0'; s++)
	{
		if (IS_HIGHBIT_SET(*s))
			appendStringInfo(&shown, "\\x%02x", (unsigned char) *s);
		else
			appendStringInfoChar(&shown, *s);
	}
	ereport(ERROR, (errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
					errmsg("file name \"%s\" is not valid in encoding \"%s\"",
						   shown.data, GetDatabaseEncodingName()),
					errhint("Rename the file.")));
}

/*
 * The files that source names, as a list of palloc'd absolute paths in byte
 * order.  A plain path is given back unseen (etl_file_stat() says what is
 * wrong with it); a glob that matches no regular file is an error.
 */
List *
etl_files_expand(const char *source)
{
	struct stat st;
	List *paths;
	ListCell *lc;

	if (!is_absolute_path(source))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not an absolute path", source),
				 errhint(
					 "Give the full path of a file on the database server, or a pattern such as \"/data/*.csv\".")));
	if (strpbrk(source, "*?[") == NULL || stat(source, &st) == 0)
		return list_make1(pstrdup(source));
	paths = expand_glob(source);
	if (paths == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("no file matches \"%s\"", source),
				 errhint(
					 "The pattern is looked up on the database server, as the operating system user that runs it.")));
	list_sort(paths, compare_paths);
	foreach(lc, paths)
		check_path_encoding(lfirst(lc));
	return paths;
}
